"""What ``headstrip compare`` prints: warnings first, the table, the controls, and the advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstrip.cli.output import Column, print_line, print_table, short_count

if TYPE_CHECKING:
    from headstrip.attributes.measures import Interval
    from headstrip.compare.results import ComparedBackbone, Comparison

_SHOWN = 5
_MEASURES = {"class": "accuracy", "labels": "mAP", "number": "R2"}
_KEYS = {"class": "accuracy", "labels": "map", "number": "r2"}
_COLUMNS = (
    Column("backbone"),
    Column("score", is_number=True),
    Column("5-NN", is_number=True),
    Column("images/s", is_number=True),
    Column("memory", is_number=True),
    Column("params", is_number=True),
    Column("dim", is_number=True),
    Column("bytes/row", is_number=True),
    Column("licence"),
    Column("download", is_number=True),
    Column("verdict"),
)


def print_comparison(found: Comparison) -> None:
    """Print a comparison."""
    for warning in found.warnings:
        print_line(f"Warning: {warning}", bold=True)
    print_line(_summary(found))
    print_line("")
    compared = [one for one in found.backbones if one.score is not None]
    rows = [_row(one) for one in compared]
    rows += [
        [control.name, _points(control.score), *[""] * 8, "control"]
        for control in found.controls
        if control.score is not None
    ]
    print_table(_COLUMNS, rows, always_head=True)
    _print_attributes(compared)
    _print_reasons(found)
    print_line("")
    print_line(_advice(found))


def _summary(found: Comparison) -> str:
    text = f"{found.images:,} images with labels"
    if found.copies:
        text += f", {found.copies:,} of them copies of others, kept in one fold"
    return f"{text}; the score is the mean of {_scores(found)} of the linear probe, in points"


def _scores(found: Comparison) -> str:
    kinds = {one.kind for row in found.backbones for one in row.attributes}
    return " and ".join(name for kind, name in _MEASURES.items() if kind in kinds) or "accuracy"


def _row(one: ComparedBackbone) -> list[str]:
    costs = one.costs
    verdict = one.verdict.text(one.images) if one.verdict else (one.reason or one.status)
    cells = [""] * 7
    if costs is not None:
        speed, memory, size = costs.images_per_second, costs.peak_memory, costs.download_bytes
        cells = [
            "-" if speed is None else f"{speed:.1f}",
            "-" if memory is None else f"{memory / (1 << 30):.1f} GiB",
            short_count(costs.params),
            str(costs.dim),
            str(costs.bytes_per_row),
            costs.license or "-",
            "-" if size is None else f"{size / 1e6:.0f} MB",
        ]
    return [one.name, _points(one.score), _neighbors(one), *cells, verdict]


def _neighbors(one: ComparedBackbone) -> str:
    values = [found.neighbors[_KEYS[found.kind]].value for found in one.attributes]
    return f"{100 * sum(values) / len(values):.1f}" if values else "-"


def _points(score: Interval | None) -> str:
    if score is None:
        return "-"
    return f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def _print_attributes(compared: list[ComparedBackbone]) -> None:
    """Print the measure of each attribute, if there are several."""
    if not compared or len(compared[0].attributes) < 2:
        return
    first = compared[0].attributes
    titles = [Column(f"{one.name} ({_MEASURES[one.kind]})", is_number=True) for one in first]
    rows = [
        [one.name, *(_points(found.probe[_KEYS[found.kind]]) for found in one.attributes)]
        for one in compared
        if len(one.attributes) == len(first)
    ]
    print_line("")
    print_table([Column("backbone"), *titles], rows, always_head=True)


def _print_reasons(found: Comparison) -> None:
    """Print what was left out, and why."""
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
    lines += found.notes
    if lines:
        print_line("")
    for line in lines:
        print_line(line)


def _advice(found: Comparison) -> str:
    if found.recommended is None:
        return "No backbone could be compared. Correct the reasons above, and run this again."
    tied = [one for one in found.backbones if one.verdict and one.verdict.kind == "tied"]
    best = next(one for one in found.backbones if one.verdict and one.verdict.kind == "best")
    text = f"Recommended: {found.recommended}"
    if tied:
        text += (
            f", by images/s the cheapest of the {len(tied) + 1} that cannot be distinguished on "
            "these images."
        )
    elif len([one for one in found.backbones if one.verdict]) > 1:
        text += f", because {best.name} is better than every other."
    else:
        text += ", the only one that was compared."
    if tied and found.images_to_separate is not None:
        text += (
            f" To separate the best two takes about {found.images_to_separate:,} such images, "
            "if they differ as much as here."
        )
    return text
