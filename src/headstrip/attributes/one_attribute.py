"""Fit the predictor of one attribute: choose the strength, fit again, and measure."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstrip.attributes.held_out import held_out_of
from headstrip.attributes.joining import Joined
from headstrip.attributes.measures import (
    Measure,
    best_temperature,
    log_losses,
    measures_of_classes,
    measures_of_labels,
    measures_of_numbers,
    with_intervals,
)
from headstrip.attributes.solving import COARSE, FINE, Layers, bytes_to_solve, solve
from headstrip.attributes.splitting import (
    TEST,
    TRAIN,
    VALIDATION,
    Fractions,
    bins_of,
    split,
    take_validation,
)
from headstrip.attributes.standardize import Axes, standardize
from headstrip.attributes.targets import Target
from headstrip.encoder.attribute import Attribute, Kind
from headstrip.encoder.held_out import HeldOut
from headstrip.errors import HeadstripError
from headstrip.system.memory import memory_limit, shown_bytes

_SHOWN = 5
_UNSEEN = -1e9
"""Logit of a class that no training image has: its probability is 0."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How predictors are fitted.

    Attributes:
        test: Share of the images that are held out.
        validation: Share of the other images, to choose the strength on.
        class_weight: ``"balanced"`` or None.
        strengths: Values of ``C``, ascending.
        seed: Seed of the parts, of the shuffled labels and of the intervals.
        method: ``"default"`` or ``"sgd"``.
    """

    test: float
    validation: float
    class_weight: str | None
    strengths: tuple[float, ...]
    seed: int
    method: str = "default"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "strengths": list(self.strengths)}


@dataclass(frozen=True)
class AttributeFit:
    """A predictor and its measures.

    Attributes:
        attribute: The attribute, with the classes that were fitted.
        weight: float32 tensor of shape (outputs, dim).
        bias: float32 tensor of shape (outputs,).
        report: The settings of the fit and the measures, as plain JSON values.
        held_out: The predictions for the held-out images.
    """

    attribute: Attribute
    weight: Tensor
    bias: Tensor
    report: dict[str, Any]
    held_out: HeldOut | None = None


def check_memory(images: int, dim: int, outputs: Sequence[int]) -> None:
    """Refuse a fit that would take more memory than this process may use.

    Raises:
        HeadstripError: It would take more; the message says how much.
    """
    most = max(outputs, default=1)
    # The embeddings in float32, and three float64 copies: all, the standardised, and the design.
    needed = images * dim * (4 + 3 * 8) + bytes_to_solve(images, dim, most)
    limit = memory_limit()
    if limit is not None and needed > limit:
        raise HeadstripError(
            f"Fitting {most:,} classes to {images:,} embeddings of {dim:,} numbers takes "
            f"{shown_bytes(needed)} of memory, and this process may use {shown_bytes(limit)}. Fit "
            "attributes with fewer classes, or fewer images, or pass --method sgd (method=)."
        )


def fit_attribute(
    joined: Joined,
    target: Target,
    groups: np.ndarray,
    given: np.ndarray | None,
    settings: Settings,
    axes: Axes | None,
) -> AttributeFit | str:
    """Fit the predictor of one attribute.

    Args:
        joined: All images with labels.
        target: The labels of the attribute.
        groups: Group of each image; all images of a group go into the same part.
        given: Part of each image, None to divide them here.
        settings: The settings.
        axes: Principal axes of all embeddings; used if the attribute has at least dim images.

    Returns:
        The predictor, or the reason why there are too few images for it.
    """
    target, groups, parts = divided(joined, target, groups, given, settings)
    rows, kind = target.rows, target.attribute.kind
    is_fitted, is_test = parts != TEST, parts == TEST
    reason = too_few(target, parts, groups, has_parts=given is not None)
    if reason is not None:
        return reason
    attribute, values = seen(target, is_fitted)
    embeddings = torch.from_numpy(joined.embeddings[rows]).double()
    train, validation = parts == TRAIN, parts == VALIDATION

    def solved(standardized: Tensor, labels: np.ndarray, *more: Any, **options: Any) -> Layers:
        return solve(
            standardized,
            labels,
            kind,
            attribute.outputs,
            *more,
            axes=axes,
            is_balanced=settings.class_weight == "balanced",
            **options,
        )

    standardized, scale = standardize(embeddings[torch.from_numpy(train)])
    grid = solved(standardized, values[train], settings.strengths, COARSE, scale=scale)
    del standardized
    held = embeddings[torch.from_numpy(validation)]
    losses = [
        _loss(kind, values[validation], grid.outputs(at, held))
        for at in range(len(settings.strengths))
    ]
    # If losses are equal, argmin takes the first one, which has the stronger penalty.
    best = int(np.argmin(losses))
    strength = settings.strengths[best]
    temperature = 1.0
    if kind == "class":
        known, logits = known_classes(values[validation], grid.outputs(best, held))
        temperature = best_temperature(known, logits) if len(known) else 1.0
    standardized, scale = standardize(embeddings[torch.from_numpy(is_fitted)])
    labels, start = values[is_fitted], grid.start(best)
    final = solved(standardized, labels, [strength], FINE, scale=scale, start=start)
    shuffled_labels = generator_of(settings, attribute.name).permutation(labels)
    shuffled = solved(standardized, shuffled_labels, [strength], COARSE, scale=scale)
    del standardized
    weight, bias = final.weights[0].float(), final.biases[0].float()
    tests = embeddings[torch.from_numpy(is_test)]
    truth = truth_of(target, attribute, is_test)
    outputs = (tests @ weight.double().T + bias.double()).numpy()
    found = {
        "measures": measured(attribute, truth, outputs, temperature, settings),
        "majority": measured(
            attribute, truth, majority(kind, values[is_fitted], outputs.shape), 1.0, None
        ),
        "shuffled": measured(attribute, truth, shuffled.outputs(0, tests), 1.0, None),
    }
    report = {
        "kind": kind,
        "outputs": attribute.outputs,
        "images": {
            "train": int(train.sum()),
            "validation": int(validation.sum()),
            "test": int(is_test.sum()),
            "missing": len(joined.paths) - len(rows),
        },
        "strength": strength,
        "grid": [
            {
                "strength": one,
                "loss": plain(loss),
                "iterations": iterations,
                "converged": converged,
            }
            for one, loss, iterations, converged in zip(
                settings.strengths, losses, grid.iterations, grid.converged, strict=True
            )
        ],
        "converged": final.converged[0],
        "iterations": final.iterations[0],
        "gradient": final.gradients[0],
        "temperature": temperature if kind == "class" else None,
        **found,
        "notes": _notes(target, parts, attribute, settings, best, final),
    }
    held_out = held_out_of(
        kind,
        [joined.paths[row] for row in rows[is_test]],
        [*attribute.classes, *unseen_classes(target, attribute)],
        truth,
        outputs,
        temperature,
    )
    return AttributeFit(attribute, weight, bias, report, held_out)


def divided(
    joined: Joined,
    target: Target,
    groups: np.ndarray,
    given: np.ndarray | None,
    settings: Settings,
) -> tuple[Target, np.ndarray, np.ndarray]:
    """Return the target, the groups of its rows and their parts."""
    rows = target.rows
    own = groups[rows]
    keys = [joined.checksums[group] or joined.paths[group] for group in own]
    strata = strata_of(target)
    if given is None:
        size = Fractions(settings.test, settings.validation)
        return target, own, split(strata, own, keys, settings.seed, size)
    parts = given[rows]
    if VALIDATION not in given:
        parts = take_validation(parts, strata, own, keys, settings.seed, settings.validation)
    return target, own, parts


def strata_of(target: Target) -> Sequence[Hashable]:
    """Return the stratum of each image: its class, its rarest label, or a range of numbers."""
    if target.attribute.kind == "class":
        strata: list[Hashable] = target.values.tolist()
        return strata
    if target.attribute.kind == "number":
        return bins_of(target.values)
    counts = target.values.sum(0)
    rarity = np.where(target.values, counts, np.inf)
    rarest = rarity.argmin(1)
    found: list[Hashable] = np.where(target.values.any(1), rarest, -1).tolist()
    return found


def too_few(
    target: Target, parts: np.ndarray, groups: np.ndarray, *, has_parts: bool
) -> str | None:
    """Return why the parts of an attribute are too small, None if they are large enough."""
    for part, name in ((TRAIN, "train on"), (VALIDATION, "validate on"), (TEST, "test on")):
        if part not in parts:
            images, different = f"its {len(parts)} images with a label", len(np.unique(groups))
            if has_parts:
                return f"none of {images} is in the part to {name}"
            if different < len(parts):
                images += f" ({different} without copies of the same image)"
            return f"{images} are too few, and none is left to {name}"
    if target.attribute.kind == "class" and len(set(target.values[parts == TRAIN].tolist())) < 2:
        return "the images to train on have one class"
    if target.attribute.kind == "number" and np.ptp(target.values[parts == TRAIN]) == 0:
        return "the images to train on have one number"
    return None


def seen(target: Target, is_fitted: np.ndarray) -> tuple[Attribute, np.ndarray]:
    """Return the attribute with only the classes of fitted images, and its values.

    In the values, -1 is a class that no fitted image has.
    """
    attribute, values = target.attribute, target.values
    if attribute.kind != "class":
        return attribute, values
    known = np.unique(values[is_fitted])
    names = tuple(attribute.classes[index] for index in known)
    index = np.full(len(attribute.classes), -1)
    index[known] = np.arange(len(known))
    return Attribute(attribute.name, "class", names), index[values]


def truth_of(target: Target, attribute: Attribute, is_test: np.ndarray) -> np.ndarray:
    """Return the values of the test part; classes without a fitted image come last."""
    values: np.ndarray = target.values[is_test]
    if attribute.kind != "class":
        return values
    names = [*attribute.classes, *unseen_classes(target, attribute)]
    index = {name: at for at, name in enumerate(names)}
    return np.array([index[target.attribute.classes[value]] for value in values], np.int64)


def unseen_classes(target: Target, attribute: Attribute) -> list[str]:
    """Return the classes of a target that no fitted image has."""
    seen = set(attribute.classes)
    return [one for one in target.attribute.classes if one not in seen]


def _loss(kind: Kind, values: np.ndarray, outputs: np.ndarray) -> float:
    """Return the loss by which strengths are compared: log loss, or squared error for numbers."""
    if kind == "number":
        return float(np.square(outputs[:, 0] - values).mean())
    if kind == "labels":
        return float(np.logaddexp(0, np.where(values, -outputs, outputs)).mean())
    known, logits = known_classes(values, outputs)
    return float(log_losses(known, logits).mean()) if len(known) else math.inf


def known_classes(values: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out images of classes that the training part lacks."""
    logits = outputs[np.arange(len(values)), values]
    is_known = np.isfinite(logits)
    return values[is_known], outputs[is_known]


def majority(kind: Kind, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the outputs of a predictor that ignores the image."""
    if kind == "number":
        return np.full(shape, values.mean())
    if kind == "labels":
        share = (values.sum(0) + 0.5) / (len(values) + 1)
        return np.broadcast_to(np.log(share / (1 - share)), shape)
    share = np.bincount(values, minlength=shape[1]) / len(values)
    return np.broadcast_to(np.log(share), shape)


def measured(
    attribute: Attribute,
    truth: np.ndarray,
    outputs: np.ndarray,
    temperature: float,
    settings: Settings | None,
) -> dict[str, Any]:
    """Evaluate the measures, with intervals if there are settings."""
    measures: Mapping[str, Measure]
    if attribute.kind == "number":
        measures = measures_of_numbers(truth, outputs[:, 0])
    elif attribute.kind == "labels":
        measures = measures_of_labels(truth, outputs)
    else:
        unseen = max(0, int(truth.max()) + 1 - outputs.shape[1])
        outputs = np.pad(outputs, ((0, 0), (0, unseen)), constant_values=_UNSEEN)
        measures = measures_of_classes(truth, outputs, temperature)
    if settings is None:
        found = with_intervals(measures, len(truth), 0, samples=0)
        return {name: plain(one.value) for name, one in found.items()}
    seed = int(generator_of(settings, attribute.name).integers(1 << 62))
    found = with_intervals(measures, len(truth), seed)
    return {
        name: {"value": plain(one.value), "low": plain(one.low), "high": plain(one.high)}
        for name, one in found.items()
    }


def plain(value: float) -> float | None:
    """Return a value that JSON can express."""
    return float(value) if math.isfinite(value) else None


def generator_of(settings: Settings, name: str) -> np.random.Generator:
    """Return a generator that depends on the seed and on this attribute alone."""
    text = f"{settings.seed}\0{name}".encode(errors="surrogatepass")
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))


def _notes(
    target: Target,
    parts: np.ndarray,
    attribute: Attribute,
    settings: Settings,
    best: int,
    final: Layers,
) -> list[str]:
    notes = []
    if not final.converged[0]:
        notes.append(
            f"The optimisation did not converge in {final.iterations[0]} iterations. Leave out the "
            "weakest penalties, or check the embeddings."
        )
    if len(settings.strengths) > 1 and best in (0, len(settings.strengths) - 1):
        side = "weaker" if best else "stronger"
        notes.append(
            f"The best strength, {settings.strengths[best]:g}, is at the end of the grid. A "
            f"{side} penalty may be better; pass other strengths."
        )
    return notes + notes_on_classes(target, attribute)


def notes_on_classes(target: Target, attribute: Attribute) -> list[str]:
    """Return sentences for the user about unusual classes of an attribute.

    Args:
        target: The labels, with all classes.
        attribute: The attribute, with the classes that are fitted.
    """
    notes: list[str] = []
    alike: dict[str, list[str]] = {}
    for one in target.attribute.classes:
        alike.setdefault(" ".join(one.casefold().split()), []).append(one)
    if twins := next((names for names in alike.values() if len(names) > 1), None):
        notes.append(
            f"Classes that differ only in upper and lower case or in white space: {_listed(twins)}."
        )
    if attribute.kind != "class":
        return notes
    counts = Counter(target.values.tolist())
    single = [target.attribute.classes[one] for one, count in sorted(counts.items()) if count == 1]
    if single:
        notes.append(f"Classes with a single image, which are not measured: {_listed(single)}.")
    if unseen := unseen_classes(target, attribute):
        notes.append(
            f"Classes of the test part that no other image has count as wrong: {_listed(unseen)}."
        )
    return notes


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name!r:.40}" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
