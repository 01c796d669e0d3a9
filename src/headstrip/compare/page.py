"""The report of a comparison as one HTML page, which loads nothing and runs no script.

Without a script the page cannot sort the table. So it contains the rows once in each order, and
radio buttons choose the order to show.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headstrip.attributes.titles import RANKED_BY
from headstrip.compare.results import ComparedBackbone, Comparison, Confusions
from headstrip.compare.wording import (
    RANKED_AS,
    advice,
    neighbors,
    points,
    reasons,
    summary,
    verdict,
)
from headstrip.embed.sources import source_of
from headstrip.html import charts, tables
from headstrip.html.charts import Axis, Frame, chart
from headstrip.html.elements import Html, element, joined, name
from headstrip.html.page import page, write_page
from headstrip.html.pictures import Picture, figure
from headstrip.html.tables import confusion_table, heading, scrolling, table
from headstrip.html.thumbnails import pictures_of

if TYPE_CHECKING:
    from PIL import Image

_ORDERS = ("score", "5-NN", "images/s", "memory", "params", "bytes/row")

_STYLE = (
    charts.STYLE
    + tables.STYLE
    + """
:root { --side: 128px; }
main { max-width: 72rem; }
.warning { background: var(--bad); padding: 0.5rem 0.75rem; }
.scroll { font-size: 0.9rem; }
table:not(.matrix) :is(th, td):not(:first-child, .text) { text-align: right; white-space: nowrap;
  padding-left: 0.6rem; }
td:first-child { overflow-wrap: anywhere; min-width: min(11rem, 30vw); }
.text { padding-left: 0.6rem; }
td.text { min-width: 10rem; }
tr.chosen td { font-weight: 600; }
svg.chart { max-width: 32rem; }
.quiet { color: var(--quiet); }
.pictures { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.order { margin-right: 0.75rem; white-space: nowrap; }
tbody.ordered:not(.order0) { display: none; }
"""
    + "".join(
        f".sort:has(#order{at}:checked) tbody.order{at} {{ display: table-row-group; }}\n"
        f".sort:has(#order{at}:checked) tbody.order0 {{ display: none; }}\n"
        for at in range(1, len(_ORDERS))
    )
)


def write_comparison(path: Path, found: Comparison) -> Mapping[str, str]:
    """Write the report of a comparison.

    Args:
        path: The HTML file to write. An existing file is replaced.
        found: The comparison.

    Returns:
        The paths of confused images whose pictures are missing, with the reasons.

    Raises:
        HeadstripError: The file cannot be written, or the images cannot be listed.
    """
    wanted = [row[0] for one in found.confusions for row in one.worst]
    source = source_of(found.data, column=found.path_column)
    pictures = pictures_of(source, os.path.abspath(found.data), wanted) if wanted else {}
    write_page(path, comparison_page(found, pictures))
    return {one: reason for one, reason in pictures.items() if isinstance(reason, str)}


def comparison_page(found: Comparison, pictures: Mapping[str, Image.Image | str]) -> str:
    """Return the page that ``write_comparison`` writes. It contains only ASCII characters."""
    measured = [one for one in found.backbones if one.score is not None]
    parts = [
        element("h1", "Which backbone suits ", name(found.data)),
        *(element("p", one, class_="warning") for one in found.warnings),
        element("p", element("strong", advice(found))),
        element("p", summary(found) + "."),
    ]
    if measured:
        parts += [
            element("h2", "Quality and speed"),
            _chart(found, measured),
            element("h2", "Backbones"),
            _table(found, measured),
        ]
    parts += [element("h2", "Controls"), _controls(found)]
    if measured and len(measured[0].attributes) > 1:
        parts += [element("h2", "Attributes"), _attributes(measured)]
    for one in found.confusions:
        parts += _confused(found, one, pictures)
    if lines := reasons(found):
        parts += [
            element("h2", "What was left out"),
            element("ul", joined(element("li", line.strip()) for line in lines)),
        ]
    return page("Comparison of backbones", element("main", joined(parts, "\n")), style=_STYLE)


def _chart(found: Comparison, measured: Sequence[ComparedBackbone]) -> Html:
    """Draw the score of each backbone against its images per second, and the Pareto front."""
    drawn = [
        (number, one, one.score, one.costs.images_per_second)
        for number, one in enumerate(measured, 1)
        if one.costs is not None and one.costs.images_per_second and one.score is not None
    ]
    if not drawn:
        return element("p", "No speed was measured, so there is no chart.")
    ends = [100 * end for _, _, score, _ in drawn for end in (score.low, score.high)]
    frame = Frame(
        Axis.around("images/s", [speed for *_, speed in drawn], is_log=True),
        Axis.around("score, in points", ends),
    )
    marks, places = [], []
    for number, one, score, speed in drawn:
        x, y = frame.across(speed), frame.up(100 * score.value)
        places.append((x, y))
        low, high = frame.up(100 * score.low), frame.up(100 * score.high)
        title = element("title", f"{one.name}: {points(score)}, {speed:.1f} images/s")
        class_ = "two" if one.name == found.recommended else "one"
        marks += [
            element("path", d=f"M{x} {low}V{high}", class_="axis"),
            element("circle", title, cx=x, cy=y, r=4, class_=class_),
            element("text", str(number), x=x + 6, y=y - 4),
        ]
    front = " ".join(f"{x},{y}" for x, y in _front(places))
    label = "Score against images per second; the line joins those that no other beats in both."
    note = f"{label} Numbers are those of the table; bars are 95 % intervals."
    return joined(
        [
            chart(frame, label, element("polyline", points=front, class_="two"), *marks),
            element("p", note, class_="quiet"),
        ]
    )


def _front(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the places that no other place beats in both directions, from left to right."""
    front: list[tuple[float, float]] = []
    # A smaller y is a higher score.
    for x, y in sorted(places, key=lambda one: (-one[0], one[1])):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front[::-1]


def _table(found: Comparison, measured: Sequence[ComparedBackbone]) -> Html:
    numbers = {one.name: number for number, one in enumerate(measured, 1)}
    titles: list[str | tuple[str, str]] = [
        *("backbone", "score", ("verdict", "text"), *_ORDERS[1:5]),
        *("dim", "bytes/row", "licence", "download"),
    ]
    bodies = []
    for at, order in enumerate(_ORDERS):
        rows = sorted(measured, key=lambda one, order=order: _place(one, order))  # type: ignore[misc]
        bodies.append(
            element(
                "tbody",
                joined((_row(one, numbers[one.name], found) for one in rows), "\n"),
                class_=f"ordered order{at}",
            )
        )
    choices = [
        element(
            "label",
            element(
                "input",
                type="radio",
                name="order",
                id=f"order{at}",
                checked="" if at == 0 else None,
            ),
            f" {order}",
            class_="order",
        )
        for at, order in enumerate(_ORDERS)
    ]
    return element(
        "div",
        element("fieldset", element("legend", "Sort by"), joined(choices)),
        scrolling("Backbones", "", element("table", heading(titles), *bodies)),
        class_="sort",
    )


def _place(one: ComparedBackbone, order: str) -> float:
    """Return the sort key of a row: better values come first, unknown values last."""
    costs = one.costs
    values: dict[str, float | None] = {
        "score": -one.score.value if one.score else None,
        "5-NN": -(neighbors(one) or 0.0),
    }
    if costs is not None:
        values |= {
            "images/s": -costs.images_per_second if costs.images_per_second else None,
            "memory": costs.peak_memory,
            "params": costs.params,
            "bytes/row": costs.bytes_per_row,
        }
    found = values.get(order)
    return math.inf if found is None else found


def _row(one: ComparedBackbone, number: int, found: Comparison) -> Html:
    near, costs = neighbors(one), one.costs
    cells = ["-"] * 7
    if costs is not None:
        speed, memory, size = costs.images_per_second, costs.peak_memory, costs.download_bytes
        cells = [
            "-" if speed is None else f"{speed:.1f}",
            "-" if memory is None else f"{memory / (1 << 30):.1f} GiB",
            f"{costs.params / 1e6:.1f}M",
            str(costs.dim),
            str(costs.bytes_per_row),
            costs.license or "-",
            "-" if size is None else f"{size / 1e6:.0f} MB",
        ]
    near_cell = "-" if near is None else f"{near:.1f}"
    return element(
        "tr",
        element("td", f"{number} ", name(one.name)),
        element("td", points(one.score)),
        element("td", verdict(one), class_="text"),
        *(element("td", cell) for cell in (near_cell, *cells)),
        class_="chosen" if one.name == found.recommended else None,
    )


def _controls(found: Comparison) -> Html:
    rows = [
        element("tr", element("td", name(one.name)), element("td", points(one.score)))
        for one in found.controls
    ]
    return table("Controls", "", ["control", "score"], rows)


def _attributes(measured: Sequence[ComparedBackbone]) -> Html:
    first = measured[0].attributes
    titles = [joined([name(one.name), f" ({RANKED_AS[one.kind]})"]) for one in first]
    rows = [
        element(
            "tr",
            element("td", name(one.name)),
            *(element("td", points(each.probe[RANKED_BY[each.kind]])) for each in one.attributes),
        )
        for one in measured
        if len(one.attributes) == len(first)
    ]
    return table("Attributes", "", ["backbone", *titles], rows)


def _confused(
    found: Comparison, one: Confusions, pictures: Mapping[str, Image.Image | str]
) -> list[Html]:
    """Show the confusion matrix and the most confident mistakes for one attribute."""
    title = element("h2", "What ", name(str(found.recommended)), " confuses: ", name(one.attribute))
    counts = {pair: int(one.table[pair]) for pair in zip(*one.table.nonzero(), strict=True)}
    figures = [
        figure(
            Picture(
                path,
                f"{truth}, predicted as {guess} ({100 * probability:.0f} %)",
                pictures.get(path, "it was not read."),
            )
        )
        for path, truth, guess, probability in one.worst
    ]
    shown = element("div", joined(figures, "\n"), class_="pictures") if figures else None
    most = element("h3", "The most confident mistakes") if figures else None
    parts = [title, confusion_table(one.classes, counts), most, shown]
    return [part for part in parts if part is not None]
