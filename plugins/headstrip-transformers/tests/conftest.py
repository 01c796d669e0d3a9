"""Fixtures for a local hub, and for tests that may not open a socket."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.hub import hub_in_use, socket_ban

from headstrip.registry import registry

# The folder is not a package, so Python finds its modules on the path.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Use a new registry, so that a test does not see the hub of the previous one."""
    registry.use_registry(None)
    yield
    registry.use_registry(None)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_registry: None) -> object:
    """Return a function that runs a hub for this process."""
    return hub_in_use(monkeypatch, tmp_path / "hub")


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function; after its call, opening a socket fails the test."""
    return socket_ban(monkeypatch)
