"""Print the report of fitted predictors, for `headstrip fit` and `headstrip show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstrip.attributes.titles import BASELINES, JOIN, KINDS, MEASURES
from headstrip.cli.output import Column, print_line, print_table

Report = Mapping[str, Any]


def print_report(report: Report) -> None:
    """Print the numbers of the join, and a table of measures for each kind."""
    _print_join(report)
    for kind, title in KINDS.items():
        found = {name: one for name, one in report["attributes"].items() if one.get("kind") == kind}
        if found:
            print_line("")
            print_line(title, bold=True)
            _print_kind(kind, found, report.get("average", {}).get(kind, {}))
    notes = [
        f"{name}: {note}"
        for name, one in report["attributes"].items()
        for note in one.get("notes", ())
    ]
    if notes:
        print_line("")
    for note in notes:
        print_line(note)


def _print_join(report: Report) -> None:
    join = report["join"]
    print_line(f"{join['joined']:,} images with labels")
    for key, words in JOIN.items():
        if join.get(key):
            print_line(f"{join[key]:,} {words}")
    if report.get("duplicates"):
        print_line(f"{report['duplicates']:,} copies of other images, kept in their part")


def _print_kind(kind: str, found: Mapping[str, Report], average: Mapping[str, float]) -> None:
    names = MEASURES[kind]
    columns = [
        Column("attribute"),
        Column("outputs", is_number=True),
        Column("train", is_number=True),
        Column("test", is_number=True),
        Column("C", is_number=True),
        *(Column(title, is_number=True) for title in names.values()),
    ]
    rows = []
    for name, one in found.items():
        images = one["images"]
        rows.append(
            [
                name,
                str(one["outputs"]),
                str(images["train"] + images["validation"]),
                str(images["test"]),
                "-" if one["strength"] is None else f"{one['strength']:.2g}",
                *(
                    _with_interval(one["measures"][key], has_interval=at == 0)
                    for at, key in enumerate(names)
                ),
            ]
        )
        rows += [
            [f"  {title}", "", "", "", "", *(_number(one[line].get(key)) for key in names)]
            for line, title in BASELINES.items()
        ]
    if len(found) > 1:
        rows.append(["average", "", "", "", "", *(_number(average.get(key)) for key in names)])
    print_table(columns, rows, always_head=True)


def _with_interval(measure: Report, *, has_interval: bool) -> str:
    """Return a measure as text. Only the first column shows the interval, to keep lines short."""
    if not has_interval:
        return _number(measure["value"])
    low, high = _number(measure["low"]), _number(measure["high"])
    return f"{_number(measure['value'])} ({low} to {high})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
