"""The report of a comparison as one HTML page, which loads nothing and runs no script.

The rows of the table are written once for each order, and radio buttons choose which ones show,
because the page may run no script.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
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
from headstrip.html.elements import Html, element, joined, name
from headstrip.html.page import page, write_page
from headstrip.html.pictures import Picture, figure
from headstrip.html.thumbnails import pictures_of

if TYPE_CHECKING:
    from PIL import Image

_ORDERS = ("score", "5-NN", "images/s", "memory", "params", "bytes/row")
_WIDTH, _HEIGHT, _MARGIN = 480, 300, 48
_LEVELS = 5

_STYLE = """
:root { --side: 128px; }
main { max-width: 72rem; }
.warning { background: var(--bad); padding: 0.5rem 0.75rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.5rem 0; }
th, td { text-align: right; padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th:first-child, td:first-child, .text { text-align: left; }
td:not(:first-child) { white-space: nowrap; }
td:first-child { overflow-wrap: anywhere; min-width: 7rem; }
td.text:not(:first-child) { white-space: normal; min-width: 10rem; }
tr.chosen td { font-weight: 600; }
svg { width: 100%; max-width: 36rem; height: auto; }
svg text { fill: var(--ink); font-size: 14px; }
.axis { stroke: var(--line); }
.range { stroke: var(--quiet); }
.front { stroke: var(--two); fill: none; }
.dot { fill: var(--one); }
.dot.chosen { fill: var(--two); }
.quiet { color: var(--quiet); }
.pictures { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.order { margin-right: 0.75rem; white-space: nowrap; }
tbody.ordered:not(.order0) { display: none; }
.level1 { background: color-mix(in srgb, var(--one) 15%, transparent); }
.level2 { background: color-mix(in srgb, var(--one) 30%, transparent); }
.level3 { background: color-mix(in srgb, var(--one) 45%, transparent); }
.level4 { background: color-mix(in srgb, var(--one) 60%, transparent); }
.level5 { background: color-mix(in srgb, var(--one) 75%, transparent); }
""" + "".join(
    f".sort:has(#order{at}:checked) tbody.order{at} {{ display: table-row-group; }}\n"
    f".sort:has(#order{at}:checked) tbody.order0 {{ display: none; }}\n"
    for at in range(1, len(_ORDERS))
)


def write_comparison(path: Path, found: Comparison) -> Mapping[str, str]:
    """Write the report of a comparison.

    Args:
        path: The HTML file to write. An existing file is replaced.
        found: The comparison.

    Returns:
        Why pictures of confused images are missing, by path.

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
        (number, one, one.costs.images_per_second)
        for number, one in enumerate(measured, 1)
        if one.costs is not None and one.costs.images_per_second and one.score is not None
    ]
    if not drawn:
        return element("p", "No speed was measured, so there is no chart.")
    across = _scale([math.log10(speed) for *_, speed in drawn], _MARGIN, _WIDTH - 16)
    ends = [end for _, one, _ in drawn if one.score for end in (one.score.low, one.score.high)]
    down = _scale([100 * end for end in ends], _HEIGHT - _MARGIN, 16)
    shapes = [
        element(
            "path",
            d=f"M{_MARGIN} 8V{_HEIGHT - _MARGIN}H{_WIDTH - 8}",
            class_="axis",
            fill="none",
        ),
        element("text", "score, in points", x=_MARGIN + 4, y=18),
        element("text", "images/s", x=_WIDTH - 8, y=_HEIGHT - 10, text_anchor="end"),
    ]
    for value in {round(100 * min(ends)), round(100 * max(ends))}:
        shapes.append(
            element("text", str(value), x=_MARGIN - 6, y=round(down(value)), text_anchor="end")
        )
    for speed in {min(one[2] for one in drawn), max(one[2] for one in drawn)}:
        shapes.append(
            element(
                "text",
                f"{speed:.1f}",
                x=round(across(math.log10(speed))),
                y=_HEIGHT - _MARGIN + 18,
                text_anchor="middle",
            )
        )
    places = []
    for number, one, speed in drawn:
        # Each has a score, or it would not be drawn.
        assert one.score is not None
        x, y = round(across(math.log10(speed))), round(down(100 * one.score.value))
        low, high = round(down(100 * one.score.low)), round(down(100 * one.score.high))
        places.append((x, y))
        chosen = " chosen" if one.name == found.recommended else ""
        shapes += [
            element("path", d=f"M{x} {low}V{high}", class_="range"),
            element(
                "circle",
                element("title", f"{one.name}: {points(one.score)}, {speed:.1f} images/s"),
                cx=x,
                cy=y,
                r=5,
                class_=f"dot{chosen}",
            ),
            element("text", str(number), x=x + 8, y=y - 6),
        ]
    front = _front(places)
    shapes.append(element("path", d="M" + "L".join(f"{x} {y}" for x, y in front), class_="front"))
    label = "Score against images per second; the line joins those that no other beats in both."
    chart = element(
        "svg", joined(shapes), viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label
    )
    return joined(
        [
            chart,
            element(
                "p",
                f"{label} Numbers are those of the table; bars are 95 % intervals.",
                class_="quiet",
            ),
        ]
    )


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Return a function that maps values to pixels, with some space at both ends."""
    low, high = min(values), max(values)
    space = 0.08 * (high - low) or 0.5
    low, high = low - space, high + space
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _front(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the places that no other beats in both directions, from left to right."""
    front: list[tuple[int, int]] = []
    # A smaller y is a higher score.
    for x, y in sorted(places, key=lambda one: (-one[0], one[1])):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front[::-1]


def _table(found: Comparison, measured: Sequence[ComparedBackbone]) -> Html:
    numbers = {one.name: number for number, one in enumerate(measured, 1)}
    titles = (
        *("backbone", "score", "verdict", *_ORDERS[1:5]),
        *("dim", "bytes/row", "licence", "download"),
    )
    cells = (
        element("th", one, scope="col", class_="text" if one == "verdict" else None)
        for one in titles
    )
    head = element("thead", element("tr", joined(cells)))
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
        element("div", element("table", head, joined(bodies)), class_="wide", tabindex=0),
        class_="sort",
    )


def _place(one: ComparedBackbone, order: str) -> float:
    """Return what rows are sorted by: the better first, unknown values last."""
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
    head = element("tr", element("th", "control", scope="col"), element("th", "score", scope="col"))
    table = element("table", element("thead", head), element("tbody", joined(rows)))
    return element("div", table, class_="wide", tabindex=0)


def _attributes(measured: Sequence[ComparedBackbone]) -> Html:
    first = measured[0].attributes
    titles = [
        element("th", name(one.name), f" ({RANKED_AS[one.kind]})", scope="col") for one in first
    ]
    rows = [
        element(
            "tr",
            element("td", name(one.name)),
            *(element("td", points(each.probe[RANKED_BY[each.kind]])) for each in one.attributes),
        )
        for one in measured
        if len(one.attributes) == len(first)
    ]
    head = element("tr", element("th", "backbone", scope="col"), *titles)
    table = element("table", element("thead", head), element("tbody", joined(rows)))
    return element("div", table, class_="wide", tabindex=0)


def _confused(
    found: Comparison, one: Confusions, pictures: Mapping[str, Image.Image | str]
) -> list[Html]:
    """Show the confusion matrix and the most confident mistakes for one attribute."""
    heading = element(
        "h2", "What ", name(str(found.recommended)), " confuses: ", name(one.attribute)
    )
    totals = one.table.sum(1)
    rows = []
    for at, label in enumerate(one.classes):
        cells = [
            element("td", str(count) if count else "", class_=_level(count, int(totals[at])))
            for count in one.table[at].tolist()
        ]
        rows.append(element("tr", element("th", name(label), scope="row"), *cells))
    titles = joined(element("th", name(label), scope="col") for label in one.classes)
    head = element("tr", element("th", "class, predicted as", scope="col"), titles)
    table = element("table", element("thead", head), element("tbody", joined(rows)))
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
    found_parts = [heading, element("div", table, class_="wide", tabindex=0), most, shown]
    return [part for part in found_parts if part is not None]


def _level(count: int, total: int) -> str | None:
    """Return the class of a cell's colour."""
    level = math.ceil(_LEVELS * count / total) if total else 0
    return f"level{level}" if level else None
