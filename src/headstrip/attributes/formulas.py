"""Escape text in CSV files with an apostrophe, so that no spreadsheet runs it as a formula."""

from __future__ import annotations

import re

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of text that spreadsheets run; the last four are wide forms of the first."""

_HARMLESS = re.compile(r"[+-]+|[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?")
"""Text that needs no escape: numbers, and signs alone, such as the classes ``-1`` and ``+``."""


def escaped(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run.

    Example:
        >>> escaped("=1+1"), escaped("-1"), escaped("light")
        ("'=1+1", '-1', 'light')
    """
    return f"'{text}" if text.startswith(FORMULA) and not _HARMLESS.fullmatch(text) else text


def unescaped(text: str) -> str:
    """Remove the apostrophe that ``escaped`` added.

    Example:
        >>> unescaped("'=1+1"), unescaped("'light'")
        ('=1+1', "'light'")
    """
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text
