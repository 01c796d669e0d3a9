"""Sentences and cells for the terminal and the page. This module imports no slow library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstrip.attributes.titles import MEASURES, RANKED_BY

if TYPE_CHECKING:
    from headstrip.attributes.measures import Interval
    from headstrip.compare.results import ComparedBackbone, Comparison

RANKED_AS = {kind: MEASURES[kind][key] for kind, key in RANKED_BY.items()}
"""Words for the measure that backbones are ranked by, for each kind of attribute."""

_SHOWN = 5


def summary(found: Comparison) -> str:
    """Return words that say what was measured."""
    text = f"{found.images:,} images with labels"
    if found.copies:
        text += f", {found.copies:,} of them copies of others, kept in one fold"
    kinds = {one.kind for row in found.backbones for one in row.attributes}
    scores = " and ".join(name for kind, name in RANKED_AS.items() if kind in kinds)
    count = max((len(row.attributes) for row in found.backbones), default=0)
    score = f"mean {scores}" if count > 1 else scores or RANKED_AS["class"]
    return f"{text}; the score is the {score} of the linear probe, in points"


def advice(found: Comparison) -> str:
    """Return sentences that say which backbone is recommended, and why."""
    if found.recommended is None:
        return "No backbone could be compared. Correct the reasons above, and run this again."
    tied = [one for one in found.backbones if one.verdict and one.verdict.kind == "tied"]
    best = next(one for one in found.backbones if one.verdict and one.verdict.kind == "best")
    text = f"Recommended: {found.recommended}"
    if tied:
        text += (
            f", the one with most images/s of the {len(tied) + 1} that cannot be distinguished on "
            "these images."
        )
    elif len([one for one in found.backbones if one.verdict]) > 1:
        text += f", because {best.name} is better than every other."
    else:
        text += ", the only one that was compared."
    if tied and found.images_to_separate is not None:
        text += (
            " To separate the best two of them takes about "
            f"{_rounded(found.images_to_separate):,} such images, if they differ as much as here."
        )
    return text


def _rounded(count: int) -> int:
    """Round an estimate up to two digits; more digits would pretend to be exact.

    Example:
        >>> _rounded(45_663), _rounded(97)
        (46000, 97)
    """
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def reasons(found: Comparison) -> list[str]:
    """Return lines that say what was left out, and why."""
    lines = [
        f"{one.name} was not compared: {one.reason}"
        for one in found.backbones
        if one.score is None and one.reason
    ]
    lines += [
        f"{control.name} was not measured: {control.reason}"
        for control in found.controls
        if control.reason
    ]
    lines += [f"{name} was not measured: {reason}." for name, reason in found.skipped.items()]
    if found.bad_images:
        lines.append(f"{len(found.bad_images):,} images cannot be read:")
        bad = list(found.bad_images.items())
        lines += [f"  {path}: {reason}" for path, reason in bad[:_SHOWN]]
        if len(bad) > _SHOWN:
            lines.append(f"  and {len(bad) - _SHOWN:,} more; --json lists all.")
    return [*lines, *found.notes]


def points(score: Interval | None) -> str:
    """Return a score with its interval in points, as text."""
    if score is None:
        return "-"
    return f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def neighbors(one: ComparedBackbone) -> float | None:
    """Return the mean score of the nearest neighbours in points."""
    values = [found.neighbors[RANKED_BY[found.kind]].value for found in one.attributes]
    return 100 * sum(values) / len(values) if values else None


def verdict(one: ComparedBackbone) -> str:
    """Return the verdict on a backbone in words, or why it was not compared."""
    return one.verdict.text(one.images) if one.verdict else (one.reason or one.status)
