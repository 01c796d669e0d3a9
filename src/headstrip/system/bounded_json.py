"""Parse JSON from outside, with limits on its size, its depth and its numbers."""

from __future__ import annotations

import json
import math
from collections import Counter
from os import PathLike
from typing import Any, NoReturn

MAX_BYTES = 8 << 20
MAX_DEPTH = 64

_MAX_DIGITS = 19
"""Number of digits of the largest 64-bit integers."""


def parse(
    text: str | bytes, what: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> Any:
    """Parse JSON text from outside.

    Args:
        text: The JSON, as text or as UTF-8.
        what: Name of the text, as the subject of an error: ``"The manifest 'm.json'"``.
        max_bytes: Largest number of bytes (or of characters, for a str) to parse.
        max_depth: Largest number of lists and objects inside each other.

    Returns:
        Plain values: dict, list, str, int, float, bool or None. All floats are finite, and all
        integers have at most 19 digits. No object has the same key twice.

    Raises:
        ValueError: The text is too long, too deep, or not JSON. The message is one sentence that
            starts with ``what``.

    Example:
        >>> parse('{"rows": [1, 2]}', "The plan")
        {'rows': [1, 2]}
        >>> parse("[" * 100 + "]" * 100, "The plan")
        Traceback (most recent call last):
        ValueError: The plan has more than 64 lists and objects inside each other.
    """
    if len(text) > max_bytes:
        raise ValueError(f"{what} is longer than {max_bytes:,} bytes.")
    try:
        found = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_without_repeats,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_refuse_number,
        )
    except RecursionError:
        # The parser fails much deeper than max_depth, so the text is the cause, not the stack.
        raise ValueError(_too_deep(what, max_depth)) from None
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON ({error}).") from error
    if _is_deeper(found, max_depth):
        raise ValueError(_too_deep(what, max_depth))
    return found


def read(
    path: str | PathLike[str], what: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> Any:
    """Parse a JSON file from outside, reading at most ``max_bytes`` of it.

    Args:
        path: The file.
        what: As in ``parse``.
        max_bytes: As in ``parse``.
        max_depth: As in ``parse``.

    Raises:
        OSError: The file cannot be read.
        ValueError: As for ``parse``.
    """
    with open(path, "rb") as file:
        return parse(file.read(max_bytes + 1), what, max_bytes=max_bytes, max_depth=max_depth)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r:.100} is twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        _refuse_number(digits)
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        _refuse_number(digits)
    return number


def _refuse_number(digits: str) -> NoReturn:
    shown = digits if len(digits) <= 24 else f"{digits[:21]}..."
    raise ValueError(f"the number {shown} is out of range")


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether more than ``depth`` lists and objects are inside each other."""
    level = [value]
    for _ in range(depth + 1):
        level = [one for one in level if isinstance(one, (dict, list))]
        if not level:
            return False
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return True


def _too_deep(what: str, max_depth: int) -> str:
    return f"{what} has more than {max_depth} lists and objects inside each other."
