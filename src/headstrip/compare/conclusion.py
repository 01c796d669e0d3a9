"""Judge the measured backbones, compare them with controls, and recommend one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from headstrip.backbones import get_backbone
from headstrip.compare.embedding import read_rows
from headstrip.compare.measuring import Measured, Part, Setup, measure, part_of
from headstrip.compare.results import (
    AttributeMeasures,
    ComparedBackbone,
    Comparison,
    Confusions,
    Control,
)
from headstrip.compare.scoring import evaluate, evaluate_majority
from headstrip.compare.verdicts import images_to_separate, judge
from headstrip.encoder.encoder import Encoder
from headstrip.factory.build import build_encoder
from headstrip.images.preprocessing import Preprocessing

_WORST = 24


def conclude(
    data: str,
    setup: Setup,
    part: Part,
    measured: Sequence[Measured],
    others: Sequence[ComparedBackbone],
    random: Sequence[str] | None,
    notes: Sequence[str],
) -> Comparison:
    """Judge the backbones that were measured on all images of the last round.

    Args:
        data: The data, as the caller named them.
        setup: The images and settings of the comparison.
        part: The images of the last round.
        measured: The measured backbones, the best first.
        others: Rows of the backbones that were left out, failed or were dropped.
        random: Architectures to add with random weights; None for the architecture of the best
            backbone.
        notes: Sentences for the user.
    """
    verdicts = judge([one.evaluation.score for one in measured])
    rows = [
        row_of(one, part, status="compared", verdict=verdict)
        for one, verdict in zip(measured, verdicts, strict=True)
    ]
    recommended = _cheapest(rows)
    separate = None
    if len(measured) > 1:
        # The best backbone that ties with the first; without a tie, the second.
        at = next((at for at, one in enumerate(verdicts) if one.kind == "tied"), 1)
        first, second = measured[0].evaluation.score, measured[at].evaluation.score
        separate = images_to_separate(first, second, len(part.paths), len(measured))
    controls = _controls(setup, part, measured[0] if measured else None, random)
    found = [*notes, *setup.images.notes]
    found += [f"{task.name}: {note}" for task in part.tasks for note in task.notes]
    found += [
        f"{one.name} could not embed {one.missing} images that can be read; they count as "
        "embeddings of zeros."
        for one in measured
        if one.missing
    ]
    if measured:
        found += _effect_of_copies(setup, part, measured[0])
    chosen = next((one for one in measured if one.name == recommended), None)
    copies = len(part.paths) - len(np.unique(part.groups))
    return Comparison(
        data=data,
        images=len(part.paths),
        copies=copies,
        bad_images=setup.images.bad,
        backbones=(*rows, *others),
        controls=tuple(controls),
        recommended=recommended,
        images_to_separate=separate,
        warnings=tuple(_beaten(rows, controls)),
        notes=tuple(found),
        skipped=part.skipped,
        confusions=tuple(_confusions(part, chosen)) if chosen else (),
        seed=setup.seed,
    )


def row_of(one: Measured, part: Part, **more: Any) -> ComparedBackbone:
    """Return the row of a measured backbone; ``more`` has its status and other fields."""
    attributes = tuple(
        AttributeMeasures(
            found.name,
            task.kind,
            len(task.target.rows),
            found.probe,
            found.neighbors,
            found.strengths,
            found.converged,
        )
        for task, found in zip(part.tasks, one.evaluation.attributes, strict=True)
    )
    return ComparedBackbone(
        one.name,
        images=len(part.paths),
        score=one.evaluation.score.interval,
        attributes=attributes,
        costs=one.costs,
        missing=one.missing,
        **more,
    )


def _cheapest(rows: Sequence[ComparedBackbone]) -> str | None:
    """Return the fastest of the backbones that are not distinguishable from the best."""
    tied = [one for one in rows if one.verdict is not None and one.verdict.kind != "worse"]
    if not tied:
        return None

    def cost(one: ComparedBackbone) -> tuple[float, int]:
        # A row with a verdict was embedded, so it has costs.
        assert one.costs is not None
        return -(one.costs.images_per_second or 0.0), one.costs.bytes_per_row

    return min(tied, key=cost).name


def _controls(
    setup: Setup, part: Part, best: Measured | None, random: Sequence[str] | None
) -> list[Control]:
    majority = evaluate_majority(part.tasks, part.images).score.interval
    controls = [Control("always the most frequent", majority)]
    pixels, _ = read_rows(setup.images.pixels.file, part.paths)
    found = evaluate(pixels, part.tasks, part.images, neighbors=False)
    controls.append(Control("raw 16 x 16 pixels", found.score.interval))
    del pixels
    if best is not None:
        embeddings, _ = read_rows(best.file.file, part.paths)
        shuffled = evaluate(embeddings, part.tasks, part.images, neighbors=False, shuffled=True)
        del embeddings
        controls.append(Control(f"{best.name} with shuffled labels", shuffled.score.interval))
    names = random if random is not None else [best.architecture] if best else []
    for name in names:
        steps = best.preprocessing if best is not None and name == best.architecture else None
        shown = f"{name} with random weights"
        one = measure(setup, part, name, shown, partial(_random_encoder, name, steps, setup))
        if isinstance(one, str):
            controls.append(Control(shown, None, one))
        else:
            controls.append(Control(shown, one.evaluation.score.interval))
    return controls


def _random_encoder(name: str, steps: Preprocessing | None, setup: Setup) -> Encoder:
    """Build an architecture with random weights and the preprocessing of its default weights."""
    if steps is None:
        entries = get_backbone(name).weights
        steps = entries[0].preprocessing if entries else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.seed)
        return build_encoder(
            name, weights=None, preprocessing=steps, predictors={}, device=setup.device
        )


def _beaten(rows: Sequence[ComparedBackbone], controls: Sequence[Control]) -> list[str]:
    """Return sentences that name the backbones that score lower than a control."""
    sentences = []
    for control in controls:
        beaten = [
            one.name
            for one in rows
            if one.score is not None
            and control.score is not None
            and control.score.value > one.score.value
        ]
        if beaten:
            sentences.append(
                f"The control '{control.name}' scores higher than {', '.join(beaten)}. Embeddings "
                "that do not beat it say nothing about these labels."
            )
    return sentences


def _effect_of_copies(setup: Setup, part: Part, best: Measured) -> list[str]:
    """Return a sentence about the score with copies in different folds, if it differs clearly."""
    if len(np.unique(part.groups)) == len(part.groups):
        return []
    index = {path: row for row, path in enumerate(setup.images.paths)}
    rows = np.array([index[path] for path in part.paths], int)
    apart = part_of(setup, rows, grouped=False)
    embeddings, _ = read_rows(best.file.file, part.paths)
    found = evaluate(embeddings, apart.tasks, apart.images, neighbors=False).score.value
    score = best.evaluation.score
    if score.interval.low <= found <= score.interval.high:
        return []
    return [
        f"With copies in different folds {best.name} would score {100 * found:.1f} instead of "
        f"{100 * score.value:.1f}. The folds here keep copies together."
    ]


def _confusions(part: Part, chosen: Measured) -> list[Confusions]:
    found = []
    for task, one in zip(part.tasks, chosen.evaluation.attributes, strict=True):
        if one.guess is None or one.confidence is None:
            continue
        classes, truth = task.target.attribute.classes, task.target.values
        table = np.zeros((len(classes), len(classes)), int)
        np.add.at(table, (truth, one.guess), 1)
        wrong = np.flatnonzero(one.guess != truth)
        worst = wrong[np.argsort(-one.confidence[wrong], kind="stable")][:_WORST]
        rows = tuple(
            (
                part.paths[task.target.rows[at]],
                classes[truth[at]],
                classes[one.guess[at]],
                float(one.confidence[at]),
            )
            for at in worst.tolist()
        )
        found.append(Confusions(task.name, classes, table, rows))
    return found
