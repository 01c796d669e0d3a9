"""Charts of a page as SVG elements: lines and dots in a frame, and intervals in a row of a table.

The style is in attributes and classes, because the policy of a page forbids inline style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headstrip.html.elements import Html, element, joined

STYLE = """
svg text { fill: currentColor; font-size: 11px; }
svg .axis { stroke: var(--quiet); fill: none; }
svg .grid { stroke: var(--line); stroke-dasharray: 2 3; }
svg .one { stroke: var(--one); fill: var(--one); }
svg .two { stroke: var(--two); fill: var(--two); }
svg polyline { fill: none !important; stroke-width: 1.8; }
svg polyline.two { stroke-dasharray: 5 3; }
svg .two circle { fill: var(--paper); }
svg.chart { display: block; width: 100%; max-width: 24rem; height: auto; }
svg.interval { display: block; width: 100%; min-width: 6rem; max-width: 14rem; height: 18px; }
"""
"""CSS for the charts; pass it to ``page`` with the page's other CSS."""

_WIDTH, _HEIGHT = 340, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 42


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a chart.

    Attributes:
        title: Words for the values, with the unit.
        low: Smallest value.
        high: Largest value, above ``low``.
        is_log: Whether the axis is logarithmic. All values must then be above 0.
    """

    title: str
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False

    @classmethod
    def around(cls, title: str, values: Sequence[float], *, is_log: bool = False) -> Axis:
        """Return an axis that shows some values, with space on both sides."""
        low, high = min(values), max(values)
        if is_log:
            space = (high / low) ** 0.08 if high > low else 1.5
            return cls(title, low / space, high * space, is_log=True)
        space = 0.08 * (high - low) or 0.5
        return cls(title, low - space, high + space)

    def share(self, value: float) -> float:
        """Return the position of a value on the axis: 0 at the lowest, 1 at the highest."""
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    def ticks(self) -> list[float]:
        """Return round values on the axis, about five."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1,), (1, 2, 5)):
                found = [step * 10.0**power for power in powers for step in steps]
                found = [one for one in found if self.low <= one <= self.high]
                if len(found) > 2:
                    return found
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= 0.99 * rough)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(at * step, 12) for at in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame of a chart: its axes, which map values to positions."""

    x: Axis
    y: Axis

    def across(self, value: float) -> float:
        """Return the horizontal position of a value."""
        return round(_LEFT + self.x.share(value) * (_WIDTH - _LEFT - _RIGHT), 1)

    def up(self, value: float) -> float:
        """Return the vertical position of a value."""
        return round(_HEIGHT - _BOTTOM - self.y.share(value) * (_HEIGHT - _TOP - _BOTTOM), 1)


def chart(frame: Frame, label: str, *marks: Html) -> Html:
    """Return a chart.

    Args:
        frame: Its axes.
        label: A description for readers who cannot see the chart. Never a name from outside.
        marks: Results of ``line``, ``dots`` and ``diagonal``.
    """
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in frame.x.ticks():
        at = frame.across(value)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=_TOP, y2=bottom))
        parts.append(element("text", _number(value), x=at, y=bottom + 15, text_anchor="middle"))
    for value in frame.y.ticks():
        at = frame.up(value)
        parts.append(element("line", class_="grid", x1=_LEFT, x2=right, y1=at, y2=at))
        parts.append(element("text", _number(value), x=_LEFT - 5, y=at + 4, text_anchor="end"))
    parts.append(element("path", class_="axis", d=f"M{_LEFT} {_TOP}V{bottom}H{right}"))
    middle, height = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(
        element("text", frame.x.title, x=middle, y=_HEIGHT - 6, text_anchor="middle"),
    )
    parts.append(
        element(
            "text",
            frame.y.title,
            x=0,
            y=0,
            text_anchor="middle",
            transform=f"translate(11 {height:g}) rotate(-90)",
        )
    )
    return element(
        "svg",
        *parts,
        *marks,
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=label,
    )


def line(
    frame: Frame, x: Sequence[float], y: Sequence[float], class_: str, sizes: Sequence[float] = ()
) -> Html:
    """Return a line with a circle at each point.

    Args:
        frame: The frame.
        x: Values along the horizontal axis.
        y: Values along the vertical axis.
        class_: ``one`` or ``two``; they also look different without colours.
        sizes: Share of each point in the total, which decides the size of its circle; empty for
            equal circles.
    """
    points = [(frame.across(one), frame.up(other)) for one, other in zip(x, y, strict=True)]
    path = " ".join(f"{across:g},{up:g}" for across, up in points)
    radii = [2.2 + 5 * math.sqrt(size) for size in sizes] or [2.5] * len(points)
    circles = joined(
        element("circle", cx=across, cy=up, r=f"{radius:.1f}")
        for (across, up), radius in zip(points, radii, strict=True)
    )
    return element("g", element("polyline", points=path, class_=class_), circles, class_=class_)


def dots(frame: Frame, x: Sequence[float], y: Sequence[float]) -> Html:
    """Return one dot for each point."""
    circles = [
        element("circle", cx=frame.across(one), cy=frame.up(other), r=2.5)
        for one, other in zip(x, y, strict=True)
    ]
    return element("g", *circles, class_="one", fill_opacity=0.55, stroke_opacity=0)


def diagonal(frame: Frame) -> Html:
    """Return the line on which both axes have the same value."""
    low, high = max(frame.x.low, frame.y.low), min(frame.x.high, frame.y.high)
    return element(
        "line",
        class_="axis",
        x1=frame.across(low),
        y1=frame.up(low),
        x2=frame.across(high),
        y2=frame.up(high),
    )


def interval(
    axis: Axis, value: float, low: float, high: float, others: Sequence[float | None] = ()
) -> Html:
    """Return a value with its interval on one line, and strokes at other values to compare."""

    def at(one: float) -> float:
        return round(4 + 192 * axis.share(one), 1)

    strokes = [
        element("line", class_="two", x1=at(one), x2=at(one), y1=3, y2=15, stroke_width=2)
        for one in others
        if one is not None
    ]
    return element(
        "svg",
        element("line", class_="axis", x1=4, x2=196, y1=9, y2=9, stroke_opacity=0.4),
        *strokes,
        element("line", class_="one", x1=at(low), x2=at(high), y1=9, y2=9, stroke_width=3),
        element("circle", class_="one", cx=at(value), cy=9, r=4),
        class_="interval",
        viewBox="0 0 200 18",
        aria_hidden="true",
    )


def _number(value: float) -> str:
    return f"{value:.6g}"
