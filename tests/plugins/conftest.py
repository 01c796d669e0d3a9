"""A registry for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headstrip.registry.registry import Registry, use_registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    """Return the registry that the process uses during the test."""
    own = Registry()
    use_registry(own)
    yield own
    use_registry(None)
