"""Print facts for `headstrip show`: their names beside their values."""

from __future__ import annotations

from headstrip.cli.output import print_line
from headstrip.images.preprocessing import Preprocessing
from headstrip.registry.catalog import format_shape

Fact = tuple[str, str]


def print_facts(title: str, facts: list[Fact]) -> None:
    """Print a title, and below it one line per fact."""
    print_line(title, bold=True)
    width = max(len(key) for key, _ in facts)
    for key, value in facts:
        print_line(f"  {key.ljust(width)}  {value}")


def in_words(preprocessing: Preprocessing) -> str:
    """Describe the steps of a preprocessing in their order."""
    steps = []
    if preprocessing.frames is not None:
        steps.append(f"take {preprocessing.frames} frames")
    if isinstance(preprocessing.resize, tuple):
        manner = {"squash": "", "cover": "cover ", "contain": "fit inside "}[preprocessing.fit]
        steps.append(f"resize to {manner}{format_shape(preprocessing.resize)}")
    elif preprocessing.resize is not None:
        steps.append(f"resize the shorter side to {preprocessing.resize}")
    if steps and preprocessing.resize is not None:
        steps[-1] += f" ({preprocessing.interpolation})"
    crop = f"crop the centre to {format_shape(preprocessing.crop)}"
    if preprocessing.fill is not None:
        crop += f" and fill up with ({_numbers(preprocessing.fill)})"
    steps += [
        crop,
        f"divide by {preprocessing.rescale:g}",
        f"subtract the mean ({_numbers(preprocessing.mean)})",
        f"divide by the standard deviation ({_numbers(preprocessing.std)})",
    ]
    return ", ".join(steps)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
