"""Checkpoints written here, in the hub's layout, and a hub on this machine that serves them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.hub import hub_server, use_hub

from headstrip import registry

# The folder's name is no package's, so its modules are found on the path.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Keep what one test finds on its hub from being known in the next."""
    registry.use_registry(None)
    yield
    registry.use_registry(None)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_registry: None) -> object:
    """Run a hub for this process."""

    @contextmanager
    def running(repositories: Mapping[str, Mapping[str, bytes]], **details) -> Iterator[str]:
        with hub_server(repositories, **details) as url:
            use_hub(monkeypatch, url, tmp_path / "hub")
            yield url

    return running


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, opening a socket fails the test."""

    def opened(*_: object, **__: object) -> None:
        pytest.fail("a socket was opened")

    def forbid() -> None:
        monkeypatch.setattr(socket, "socket", opened)
        monkeypatch.setattr(socket, "getaddrinfo", opened)

    return forbid
