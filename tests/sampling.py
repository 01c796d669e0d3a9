"""Which cases of a test run by default, and which are slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from headstrip import BackboneSpec
from headstrip.registry.registry import get_registry

LARGEST = 90_000_000
"""Maximum parameters of networks that the tests prove; tools prove larger ones."""


def mostly_slow(values: Iterable[Any], every: int = 5) -> list[Any]:
    """Return the values for ``parametrize``: one of ``every`` runs by default, the rest are slow.

    For tests that check many architectures or files in the same way. A tuple has the values of
    several arguments.
    """
    return [value if number % every == 0 else _slow(value) for number, value in enumerate(values)]


def _slow(value: Any) -> Any:
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)


def smallest_of_families(source: str) -> list[BackboneSpec]:
    """Return the backbone of each family of a source that has the fewest parameters."""
    found: dict[str, BackboneSpec] = {}
    for spec in get_registry().specs():
        if spec.source == source and (
            spec.family not in found or spec.params < found[spec.family].params
        ):
            found[spec.family] = spec
    return list(found.values())
