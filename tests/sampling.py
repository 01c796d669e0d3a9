"""Which cases of a test run by default, and which are slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], every: int = 3) -> list[Any]:
    """Return the values for ``parametrize``: one of ``every`` runs by default, the rest are slow.

    For tests that ask the same of many architectures, files or pages.
    """
    return [value if number % every == 0 else _slow(value) for number, value in enumerate(values)]


def _slow(value: Any) -> Any:
    if type(value).__name__ == "ParameterSet":
        return pytest.param(*value.values, id=value.id, marks=[*value.marks, pytest.mark.slow])
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)
