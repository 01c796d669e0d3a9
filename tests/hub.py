"""A real server on 127.0.0.1 that serves downloads as the Hugging Face hub does."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

Files = Mapping[str, bytes]

# Suffixes of files that a repository keeps in large-file storage.
LARGE = (".safetensors", ".bin", ".pth", ".pt")


def commit_of(repository: str, files: Files) -> str:
    """Return the 40-digit hash of the only commit of a repository with these files."""
    content = [f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)]
    return hashlib.sha1("\n".join([repository, *content]).encode()).hexdigest()


def etag_of(name: str, body: bytes) -> str:
    """Return the key of a file in the hub's cache: its sha256, or its git hash."""
    if name.endswith(LARGE):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@contextlib.contextmanager
def hub_server(
    repositories: Mapping[str, Files],
    *,
    refused: Mapping[str, tuple[int, Mapping[str, str]]] = MappingProxyType({}),
    cut_short: Collection[str] = (),
    asked: list[str] | None = None,
) -> Iterator[str]:
    """Serve repositories as the hub does, and yield the URL for ``HF_ENDPOINT``.

    Args:
        repositories: Contents of the files by name, by ``org/name`` for the branch ``main``, or by
            ``org/name@revision``. Later changes are served too.
        refused: Repositories that the server refuses, with the status and the headers of the error,
            such as ``(403, {"X-Error-Code": "GatedRepo"})``.
        cut_short: Names of files of which the server sends only the first half.
        asked: A list to record each request in, such as
            ``"HEAD /org/name/resolve/main/config.json"``.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            if asked is not None:
                asked.append(f"{self.command} {self.path}")
            identity, resolve, rest = self.path.strip("/").partition("/resolve/")
            revision, _, name = (unquote(part) for part in rest.partition("/"))
            if identity in refused:
                self.refuse(*refused[identity])
            elif not resolve or not any(key.split("@")[0] == identity for key in repositories):
                # Without a login, the hub does not reveal which repositories exist.
                self.refuse(401, {"X-Error-Code": "RepoNotFound"})
            elif (found := revision_of(repositories, identity, revision)) is None:
                self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
            elif name not in found[1]:
                self.refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]})
            else:
                self.send(name, found[1][name], found[0])

        def refuse(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_headers(status, {**headers, "Content-Length": "0"})

        def send(self, name: str, body: bytes, commit: str) -> None:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{etag_of(name, body)}"'}
            if name.endswith(LARGE):
                headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(body))}
            # An interrupted download resumes at a position: "bytes=500-".
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_headers(
                206 if start else 200, {**headers, "Content-Length": str(len(body) - start)}
            )
            if self.command == "GET":
                self.wfile.write(body[start : len(body) // 2 if name in cut_short else None])

        def send_headers(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def revision_of(
    repositories: Mapping[str, Files], identity: str, revision: str
) -> tuple[str, Files] | None:
    """Find the commit and the files of a branch, a tag or a commit."""
    for key, files in repositories.items():
        name, _, branch = key.partition("@")
        commit = commit_of(key, files)
        if name == identity and revision in (branch or "main", commit):
            return commit, files
    return None


def hub_variables(url: str, cache: Path) -> dict[str, str]:
    """Return the environment for a process that uses the hub at ``url`` and ``cache``."""
    return {
        "HF_ENDPOINT": url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HEADSTRIP_OFFLINE": "0",
        "no_proxy": "127.0.0.1",
    }


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Make this process use the hub at ``url`` and the folder ``cache`` for one test.

    huggingface_hub reads its environment at import, so this function also sets its constants.
    """
    for name, value in hub_variables(url, cache).items():
        monkeypatch.setenv(name, value)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    # Releases below 1.0 have a copy of it.
    for module in (constants, file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    # An earlier session keeps using its earlier proxies. Releases below 1.0 lack this.
    getattr(huggingface_hub, "close_session", lambda: None)()


def hub_in_use(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Return a function like ``hub_server``; this process uses its hub for one test."""

    @contextlib.contextmanager
    def running(repositories: Mapping[str, Files], **details) -> Iterator[str]:
        with hub_server(repositories, **details) as url:
            use_hub(monkeypatch, url, cache)
            yield url

    return running


def socket_ban(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function; after its call, opening a socket fails the test."""

    def opened(*_: object, **__: object) -> None:
        pytest.fail("a socket was opened")

    def forbid() -> None:
        monkeypatch.setattr(socket, "socket", opened)
        monkeypatch.setattr(socket, "getaddrinfo", opened)

    return forbid
