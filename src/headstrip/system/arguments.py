"""Refuse arguments of a wrong type, with sentences that name the argument and the value."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

from headstrip.errors import OptionError

_LONGEST = 60


def shown(value: Any) -> str:
    """Return a value for a message: its repr, or its type if the repr is long.

    Example:
        >>> shown("resnet18"), shown([0] * 99)
        ("'resnet18'", 'a list')
    """
    text = repr(value)
    if len(text) <= _LONGEST and text.isprintable():
        return text
    return type_of(value)


def type_of(value: Any) -> str:
    """Return the name of a value's class with its article.

    Example:
        >>> type_of(1), type_of("resnet18")
        ('an int', 'a str')
    """
    return with_article(type(value).__name__)


def with_article(name: str) -> str:
    """Return the name of a class with its article, such as ``an Encoder`` or ``an ndarray``."""
    return f"{'an' if name[0] in 'AEIOaeio' or name.startswith('nd') else 'a'} {name}"


def is_count(value: object) -> bool:
    """Whether a value is an integer of 1 or more, also one of numpy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_type(name: str, value: Any, kind: type, advice: str, *, optional: bool = False) -> None:
    """Refuse a value that is not an instance of a class.

    Args:
        name: Name of the argument.
        value: The value.
        kind: The class.
        advice: A sentence that says what to pass.
        optional: Whether None passes too.

    Raises:
        OptionError: The value is something else.
    """
    if not (isinstance(value, kind) or (optional and value is None)):
        wanted = with_article(kind.__name__) + (" or None" if optional else "")
        raise OptionError(f"{name} must be {wanted}, got {shown(value)}. {advice}")


def check_function(name: str, value: Any, advice: str) -> None:
    """Refuse a value that is neither a function nor None.

    Raises:
        OptionError: The value is something else.
    """
    if value is not None and not callable(value):
        raise OptionError(f"{name} must be a function or None, got {shown(value)}. {advice}")


def check_path(name: str, value: Any, example: str) -> None:
    """Refuse a value that is neither a string nor a path object, and an empty one.

    Args:
        name: Name of the argument.
        value: The value.
        example: A path, for the error.

    Raises:
        OptionError: The value is something else, such as bytes, or it is empty.
    """
    is_path = isinstance(value, str) or (
        isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
    )
    if not is_path:
        raise OptionError(
            f"{name} must be a string or a path object, got {shown(value)}. Pass one such as "
            f"{example!r}."
        )
    if not os.fspath(value):
        raise OptionError(f"{name} is empty. Pass a path such as {example!r}.")
