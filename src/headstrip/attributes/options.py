"""Check the options that ``fit_predictors`` and ``compare_backbones`` have in common."""

from __future__ import annotations

import operator
from typing import Any

from headstrip.errors import OptionError


def checked_seed(seed: Any) -> int:
    """Return a seed as an int.

    Raises:
        OptionError: It is not an integer from 0.
    """
    try:
        found = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        found = -1
    if found < 0:
        raise OptionError(f"seed must be an integer from 0, such as 0, got {seed!r:.60}.")
    return found


def checked_names(option: str, names: Any, example: str) -> list[str]:
    """Return names as a list; a single name may be passed without a list.

    Args:
        option: Name of the option, for the error.
        names: The names, or one name.
        example: An example of a name, for the error.

    Raises:
        OptionError: They are not strings, or one is empty.
    """
    if isinstance(names, str):
        names = [names]
    try:
        found = list(names)
    except TypeError:
        found = [names]
    if not all(isinstance(one, str) and one.strip() for one in found):
        raise OptionError(f"{option} must be names, such as [{example!r}], got {names!r:.60}.")
    return found
