"""Text in CSV files that a spreadsheet would run as a formula, and the apostrophe against it."""

from __future__ import annotations

import re

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet run the text of a cell; the last four are wide forms of the first."""

_HARMLESS = re.compile(r"[+-]+|[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?")
"""Numbers, and signs alone, such as the classes ``-1`` and ``+``."""


def escaped(text: str) -> str:
    """Return text that no spreadsheet runs.

    Example:
        >>> escaped("=1+1"), escaped("-1"), escaped("light")
        ("'=1+1", '-1', 'light')
    """
    return f"'{text}" if text.startswith(FORMULA) and not _HARMLESS.fullmatch(text) else text


def unescaped(text: str) -> str:
    """Return what ``escaped`` was given.

    Example:
        >>> unescaped("'=1+1"), unescaped("'light'")
        ('=1+1', "'light'")
    """
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text
