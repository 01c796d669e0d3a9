"""Fixtures: an empty torch hub cache for each test, and servers to download files from."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tests.servers import FaultServer, fault_server
from tests.weights.files import SAVERS, Server, State, state_of

from headstrip import BackboneSpec, WeightsEntry
from headstrip.registry.registry import get_registry


@pytest.fixture(params=SAVERS)
def save(request: pytest.FixtureRequest) -> Callable[[State, Path], Path]:
    """A function that saves a weights file, once for each of the three formats."""
    return SAVERS[request.param]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's folder of weights files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultServer]:
    """A server that fails as a test configures it, with an empty folder for records."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "records"))
    with fault_server() as served:
        yield served


@pytest.fixture(scope="session")
def shufflenet() -> State:
    """The state dict of a small network with BatchNorm, ``shufflenet_v2_x0_5``."""
    return state_of("shufflenet_v2_x0_5")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[..., WeightsEntry]:
    """Replace the published entry of an architecture's default weights for one test."""

    def publish(name: str, **changes: object) -> WeightsEntry:
        registry = get_registry()
        spec, _ = registry.resolve(name)
        default, *others = registry.weights(spec)
        entry = replace(default, **changes)
        weights = registry.weights

        def patched(requested: BackboneSpec) -> tuple[WeightsEntry, ...]:
            return (entry, *others) if requested.name == spec.name else weights(requested)

        monkeypatch.setattr(registry, "weights", patched)
        return entry

    return publish


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real server on a free port of 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = Server("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            if self.path not in served.files:
                self.send_error(404)
                return
            body = served.files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path in served.cut_short else body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        served.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        running.shutdown()
        thread.join()


@pytest.fixture
def dead_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a port on which no server listens."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"
