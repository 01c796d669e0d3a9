"""Refuse levels that a network does not have, with messages that list the levels that it has."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from headstrip.errors import LevelError


def as_integers(given: Any) -> list[int] | None:
    """Return a list of integers as Python integers, or None if ``given`` is not such a list."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        return None
    if any(isinstance(one, bool) for one in given):
        return None
    try:
        # operator.index also accepts the integers of NumPy.
        return [operator.index(one) for one in given]
    except TypeError:
        return None


def check_flag(name: str, value: Any) -> None:
    """Refuse a value that is neither True nor False.

    Raises:
        LevelError: It is another value.
    """
    if not isinstance(value, bool):
        raise LevelError(f"{name} must be True or False, got {value!r:.60}.")


def check_levels(name: str, levels: Sequence[int], sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse numbers of levels that a backbone does not have.

    Args:
        name: Its qualified name.
        levels: The numbers; negative ones count from the last.
        sizes: Channels and stride of each map.

    Raises:
        LevelError: The backbone lacks one of them. The message lists the levels that it has.
    """
    count = len(sizes)
    for number in levels:
        if not -count <= number < count:
            raise LevelError(
                f"{name} has no level {number}: it has {count}, numbered 0 to {count - 1}, or "
                f"-{count} to -1 from the last. {listed(sizes)}"
            )


def listed(sizes: Sequence[tuple[int, int]]) -> str:
    """Return a sentence that lists the maps of a backbone.

    Args:
        sizes: Channels and stride of each map.
    """
    if len(sizes) > 1 and len(set(sizes)) == 1:
        ((channels, stride),) = set(sizes)
        return f"All its {len(sizes)} maps have {channels} channels and the stride {stride}."
    shown = ", ".join(f"{channels} at stride {stride}" for channels, stride in sizes)
    return f"Its maps have these channels: {shown}."
