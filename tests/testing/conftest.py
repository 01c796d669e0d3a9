"""A registry for each test, and a function that verifies a plugin."""

from __future__ import annotations

import pytest

from headstrip.registry.registry import Registry, use_registry
from headstrip.testing import verify


@pytest.fixture
def registry():
    own = Registry()
    use_registry(own)
    yield own
    use_registry(None)


@pytest.fixture
def judge(registry):
    """Register a plugin, and return the results of its one backbone by check."""

    def judge(plugin, level="real"):
        registry.register(plugin, "lab")
        results = verify(f"lab:{plugin.SPEC.name}", level=level)
        return {result.check: result for result in results}

    return judge
