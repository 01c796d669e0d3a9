"""Print the result of ``headstrip compare``: warnings, the table, the controls, and the advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstrip.attributes.titles import RANKED_BY
from headstrip.cli.output import Column, print_line, print_table, short_count
from headstrip.compare.wording import (
    RANKED_AS,
    advice,
    neighbors,
    points,
    reasons,
    summary,
    verdict,
)

if TYPE_CHECKING:
    from headstrip.compare.results import ComparedBackbone, Comparison

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
    print_line(summary(found))
    print_line("")
    measured = [one for one in found.backbones if one.score is not None]
    rows = [_row(one) for one in measured]
    rows += [
        [control.name, points(control.score), *[""] * 8, "control"]
        for control in found.controls
        if control.score is not None
    ]
    print_table(_COLUMNS, rows, always_head=True)
    _print_attributes(measured)
    lines = reasons(found)
    if lines:
        print_line("")
    for line in lines:
        print_line(line)
    print_line("")
    print_line(advice(found))


def _row(one: ComparedBackbone) -> list[str]:
    near, costs = neighbors(one), one.costs
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
    return [
        one.name,
        points(one.score),
        "-" if near is None else f"{near:.1f}",
        *cells,
        verdict(one),
    ]


def _print_attributes(measured: list[ComparedBackbone]) -> None:
    """Print the measure of each attribute, if the comparison has several attributes."""
    if not measured or len(measured[0].attributes) < 2:
        return
    first = measured[0].attributes
    titles = [Column(f"{one.name} ({RANKED_AS[one.kind]})", is_number=True) for one in first]
    rows = [
        [one.name, *(points(found.probe[RANKED_BY[found.kind]]) for found in one.attributes)]
        for one in measured
        if len(one.attributes) == len(first)
    ]
    print_line("")
    print_table([Column("backbone"), *titles], rows, always_head=True)
