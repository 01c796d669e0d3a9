"""The result of a comparison, as frozen values and as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from headstrip.attributes.measures import Interval
from headstrip.compare.costs import Costs
from headstrip.compare.verdicts import Verdict

Status = Literal["compared", "dropped", "failed", "left out"]


@dataclass(frozen=True)
class AttributeMeasures:
    """The measures of one backbone for one attribute.

    Attributes:
        name: Name of the attribute.
        kind: Kind of the attribute.
        images: Number of images with a label.
        probe: Measures of the linear probe by name, the same as those of ``headstrip fit``.
        neighbors: Measures of the 5 nearest neighbours by name.
        strengths: The chosen strength of the penalty in each fold.
        converged: Whether every optimisation converged.
    """

    name: str
    kind: str
    images: int
    probe: Mapping[str, Interval]
    neighbors: Mapping[str, Interval]
    strengths: tuple[float, ...]
    converged: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "images": self.images,
            "probe": {name: interval_json(one) for name, one in self.probe.items()},
            "neighbors": {name: interval_json(one) for name, one in self.neighbors.items()},
            "strengths": list(self.strengths),
            "converged": self.converged,
        }


@dataclass(frozen=True)
class ComparedBackbone:
    """One backbone of a comparison.

    Attributes:
        name: Name of the backbone.
        status: ``compared``; ``dropped``: measured on some images, then not continued for lack of
            time; ``failed``; ``left out``: by a filter, or because the time was up.
        reason: Why it was not compared; None for ``compared``.
        images: Number of images that it was measured on.
        score: The number that backbones are ranked by, from 0 to 1: the mean over the attributes
            of accuracy, mAP or R2 of the linear probe. None if it was not measured.
        verdict: The comparison with the best backbone; None if it was not compared.
        attributes: The measures of each attribute.
        costs: Its costs; None if it embedded no image.
        missing: Number of images that this backbone could not embed, although they can be read.
            They count as embeddings of zeros.
    """

    name: str
    status: Status
    reason: str | None = None
    images: int = 0
    score: Interval | None = None
    verdict: Verdict | None = None
    attributes: tuple[AttributeMeasures, ...] = ()
    costs: Costs | None = None
    missing: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        verdict = self.verdict
        return {
            "name": self.name,
            "status": self.status,
            "reason": self.reason,
            "images": self.images,
            "score": None if self.score is None else interval_json(self.score),
            "verdict": None
            if verdict is None
            else {**asdict(verdict), "text": verdict.text(self.images)},
            "attributes": [one.to_json() for one in self.attributes],
            "costs": None if self.costs is None else self.costs.to_json(),
            "missing": self.missing,
        }


@dataclass(frozen=True, slots=True)
class Control:
    """A control, which every backbone should beat.

    Attributes:
        name: Words for the control.
        score: Its score; None if it could not be measured.
        reason: Why it could not be measured, or None.
    """

    name: str
    score: Interval | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        score = None if self.score is None else interval_json(self.score)
        return {"name": self.name, "score": score, "reason": self.reason}


@dataclass(frozen=True)
class Confusions:
    """The confusions of the recommended backbone for one attribute of the kind ``class``.

    Attributes:
        attribute: Name of the attribute.
        classes: The classes.
        table: Number of images of each class (rows) that are predicted as each class (columns).
        worst: Paths of wrongly predicted images, each with its class, the predicted class and the
            probability of that; the most confident mistake first.
    """

    attribute: str
    classes: tuple[str, ...]
    table: np.ndarray = field(repr=False)
    worst: tuple[tuple[str, str, str, float], ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        keys = ("path", "class", "predicted", "probability")
        return {
            "attribute": self.attribute,
            "classes": list(self.classes),
            "table": self.table.tolist(),
            "worst": [dict(zip(keys, one, strict=True)) for one in self.worst],
        }


@dataclass(frozen=True)
class Comparison:
    """The result of ``compare_backbones``.

    Attributes:
        data: The images, as the caller named them.
        images: Number of readable images with a label.
        copies: Number of these that are copies of others.
        bad_images: Labelled images that cannot be read, with the reason, by path.
        backbones: The backbones: the compared ones, the best first, then the others.
        controls: The controls.
        recommended: Name of the fastest backbone that is not distinguishable from the best, or
            None.
        images_to_separate: Estimate of how many images it takes to separate the best two; None if
            fewer than two were compared, or their scores are equal.
        warnings: The most important sentences, for example that a control beats a backbone.
        notes: Other sentences, for example about labels that were left out.
        skipped: Attributes that were not measured, with the reason, by name.
        confusions: The confusions of the recommended backbone.
        seed: The seed of the comparison.
        path_column: The column of the data with the paths.
    """

    data: str
    images: int
    copies: int
    bad_images: Mapping[str, str] = field(repr=False)
    backbones: tuple[ComparedBackbone, ...]
    controls: tuple[Control, ...]
    recommended: str | None
    images_to_separate: int | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    skipped: Mapping[str, str]
    confusions: tuple[Confusions, ...] = field(repr=False)
    seed: int
    path_column: str = "path"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "data": self.data,
            "images": self.images,
            "copies": self.copies,
            "bad_images": dict(self.bad_images),
            "backbones": [one.to_json() for one in self.backbones],
            "controls": [one.to_json() for one in self.controls],
            "recommended": self.recommended,
            "images_to_separate": self.images_to_separate,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "skipped": dict(self.skipped),
            "confusions": [one.to_json() for one in self.confusions],
            "seed": self.seed,
        }


def interval_json(one: Interval) -> dict[str, float | None]:
    """Return an interval as JSON values, with None instead of values that are not finite."""
    values = {"value": one.value, "low": one.low, "high": one.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
