"""The table of `build.py`: the measured ratios, and their targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

MIB = 2**20
NOISE = 0.02
"""Smallest difference to a warm forward pass, as a share of it. Smaller ones are noise."""

FLOORS = ("map", "read", "copy")
RIVALS = ("notes", "torchvision", "timm")
Measured = dict[str, Any]
Value = float | None


def table(measured: dict[str, Measured]) -> str:
    """Return the table: one column per architecture, the geometric mean, and the target.

    Args:
        measured: The measurements by architecture.
    """
    width = max(12, *(len(name) + 2 for name in measured))
    lines = [f"{'':52}" + "".join(f"{name:>{width}}" for name in measured) + "   mean   target"]
    for title, values, shape, target in _rows(measured):
        cells = "".join(f"{_cell(value, shape):>{width}}" for value in values)
        seen = [value for value in values if value is not None]
        mean = statistics.geometric_mean(seen) if seen and min(seen) > 0 else None
        shown = _cell(mean, shape) if target is not None or shape == "x" else ""
        lines.append(f"{title:52}{cells}{shown:>8}   {_verdict(target, seen)}".rstrip())
    for name, one in measured.items():
        for way, seen in one["ways"].items():
            for part in (seen, seen.get("shared", {})):
                if "failed" in part:
                    lines.append(f"{name}, {way}: {part['failed']}")
    return "\n".join(lines)


class Target:
    """The target of a row: a bound for its values, or for their geometric mean."""

    def __init__(self, text: str, holds: Callable[[list[float]], bool]) -> None:
        """Create a target from its text and a function of the row's values."""
        self.text, self.holds = text, holds


def _mean_at_least(least: float) -> Target:
    return Target(f"mean >= {least:g}", lambda values: statistics.geometric_mean(values) >= least)


def _each_at_least(least: float) -> Target:
    return Target(f"each >= {least:g}", lambda values: min(values) >= least)


def _each_at_most(most: float) -> Target:
    return Target(f"each <= {most:g}", lambda values: max(values) <= most)


def _verdict(target: Target | None, values: list[float]) -> str:
    if target is None or not values:
        return ""
    return f"{target.text}: {'met' if target.holds(values) else 'NOT MET'}"


Row = tuple[str, list[Value], str, Target | None]


def _rows(measured: dict[str, Measured]) -> Iterator[Row]:
    architectures = list(measured.values())

    def row(title: str, of: Callable[[Measured], Value], shape: str, target: Any = None) -> Row:
        return title, [of(one) for one in architectures], shape, target

    ways = [way for way in _ways(architectures) if way != "headstrip"]
    own = _of("headstrip", "build_s")
    yield row("weights file, MiB", lambda one: _file(one, "headstrip", MIB), "")
    yield row("call to encoder, ms: headstrip", _times(own, 1000), "")
    for way in ways:
        yield row(f"  {way}", _times(_of(way, "build_s"), 1000), "")
    least = {"notes": 60, "torchvision": 25, "timm": 15}
    for way in ways:
        target = _mean_at_least(least[way]) if way in least else None
        if way in FLOORS:
            continue
        yield row(f"ratio to headstrip: {way}", _ratio(_of(way, "build_s"), own), "x", target)
    yield row("  best of notes, torchvision, timm", _ratio(_best, own), "x", _each_at_least(3))
    floor = _ratio(own, _of("map", "build_s"))
    yield row("headstrip to mapping the file alone", floor, "x", _each_at_most(4))
    yield row("headstrip to reading every byte", _ratio(own, _of("read", "build_s")), "x")
    copied = _ratio(_of("path", "build_s"), _of("copy", "build_s"))
    yield row("a file by its path to copying every byte", copied, "x")
    first = _extra("headstrip")
    yield row("first embedding less a warm one, ms: headstrip", _times(first, 1000), "")
    for way, target in (("notes", 25), ("torchvision", None), ("timm", 6), ("transformers", None)):
        if way in ways:
            goal = _mean_at_least(target) if target else None
            yield row(f"  ratio to headstrip: {way}", _ratio(_extra(way), first), "x", goal)
    yield from _memory_rows(row, [way for way in ("headstrip", *ways) if way not in FLOORS])
    for way in ("headstrip", *ways):
        yield row(f"imports, s: {way}", _of(way, "imports_s"), "s")


def _memory_rows(row: Callable[..., Row], ways: list[str]) -> Iterator[Row]:
    for way in ways:
        title = "peak up to the encoder, % of the file:" if way == ways[0] else " "
        yield row(f"{title} {way}", _times(_share(way, "build_bytes"), 100), "%")
    allowed = "  headstrip, of what is allowed: 5 % + 16 MiB"
    yield row(allowed, lambda one: _allowed(one), "x", _each_at_most(1))
    for way in ways:
        title = "peak up to the first embedding, of the file:" if way == ways[0] else " "
        target = _each_at_most(1.1) if way == "headstrip" else None
        yield row(f"{title} {way}", _share(way, "first_bytes"), "x", target)
    for way in ways:
        title = "memory held after it, of the file:" if way == ways[0] else " "
        target = _each_at_most(1.1) if way == "headstrip" else None
        yield row(f"{title} {way}", _share(way, "held_bytes"), "x", target)
    for way in ("headstrip", "torchvision"):
        title = f"4 processes, mapped file by share, of it: {way}"
        yield row(title, _ratio(_held(way, "file_pss_bytes"), partial(_file, way=way)), "x")
        yield row(f"  all their memory by share, MiB: {way}", _held(way, "pss_bytes", MIB), "")


def _ways(architectures: list[Measured]) -> list[str]:
    return list(dict.fromkeys(way for one in architectures for way in one["ways"]))


def _of(way: str, key: str) -> Callable[[Measured], Value]:
    return lambda one: one["ways"].get(way, {}).get(key)


def _times(of: Callable[[Measured], Value], factor: float) -> Callable[[Measured], Value]:
    def times(one: Measured) -> Value:
        value = of(one)
        return None if value is None else value * factor

    return times


def _ratio(
    of: Callable[[Measured], Value], to: Callable[[Measured], Value]
) -> Callable[[Measured], Value]:
    def ratio(one: Measured) -> Value:
        above, below = of(one), to(one)
        return None if above is None or below is None else above / below

    return ratio


def _best(one: Measured) -> Value:
    values = [_of(way, "build_s")(one) for way in RIVALS]
    return min((value for value in values if value is not None), default=None)


def _extra(way: str) -> Callable[[Measured], Value]:
    """Return a function for the time to the first embedding minus that of a warm embedding."""

    def extra(one: Measured) -> Value:
        first, warm = _of(way, "first_s")(one), _of(way, "warm_s")(one)
        return None if first is None or warm is None else max(first - warm, NOISE * warm)

    return extra


def _file(one: Measured, way: str, unit: float = 1) -> Value:
    size = one["file_bytes"].get(way)
    return None if size is None else size / unit


def _share(way: str, key: str) -> Callable[[Measured], Value]:
    return _ratio(_of(way, key), partial(_file, way=way))


def _held(way: str, key: str, unit: float = 1) -> Callable[[Measured], Value]:
    return _times(lambda one: one["ways"].get(way, {}).get("shared", {}).get(key), 1 / unit)


def _allowed(one: Measured) -> Value:
    used, size = _of("headstrip", "build_bytes")(one), _file(one, "headstrip")
    return None if used is None or size is None else used / (0.05 * size + 16 * MIB)


def _cell(value: Value, shape: str) -> str:
    if value is None or math.isnan(value):
        return "-"
    digits = 2 if value < 10 and shape in ("x", "s") else 1
    return f"{value:,.{digits}f}{shape}"
