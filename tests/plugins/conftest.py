"""A registry for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headstrip.registry.registry import Registry, use_registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    """Return the registry that is this process's during the test."""
    own = Registry()
    use_registry(own)
    yield own
    use_registry(None)
