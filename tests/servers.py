"""A real server on 127.0.0.1 that serves files, with the faults that a test chooses."""

from __future__ import annotations

import contextlib
import http.server
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """The reply to one request; without changes it is a correct one.

    Attributes:
        status: Another status than 200 or 206, without a file.
        headers: Headers to add or replace; None removes a header.
        cut: The number of bytes after which the server closes the connection.
        hold: The number of bytes after which the server pauses until ``released`` is set.
        piece: The number of bytes to send at a time.
        ranges: Whether the server supports range requests.
        conditional: Whether the server honours ``If-Range``.
        chunked: Whether the server sends the body in chunks, without its length.
        body: Bytes to send instead of the file.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    cut: int | None = None
    hold: int | None = None
    piece: int = 1 << 16
    ranges: bool = True
    conditional: bool = True
    chunked: bool = False
    body: bytes | None = None


@dataclass(frozen=True)
class Asked:
    """A request: its path, and the headers that request a part of a file."""

    path: str
    range: str | None
    if_range: str | None


@dataclass
class FaultServer:
    """A server's files, its faults, and the requests that it received.

    Attributes:
        url: The address of the server.
        files: The files to serve, by path.
        replies: The replies to the next requests; later requests get ``usual``.
        usual: The reply to all other requests.
        asked: The received requests, in order.
        held: Set when a reply has reached its ``hold``.
        released: Set it to let the held reply continue.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    replies: list[Reply] = field(default_factory=list)
    usual: Reply = field(default_factory=Reply)
    asked: list[Asked] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, body: bytes) -> str:
        """Serve ``body``, and return its address."""
        self.files[path] = body
        return self.url + path


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fault: FaultServer

    def do_GET(self) -> None:
        fault = self.fault
        self.close_connection = True
        with fault.lock:
            headers = self.headers
            fault.asked.append(Asked(self.path, headers["Range"], headers["If-Range"]))
            reply = fault.replies.pop(0) if fault.replies else fault.usual
        body = reply.body if reply.body is not None else fault.files.get(self.path)
        if reply.status is None and body is None:
            reply = Reply(status=404)
        with contextlib.suppress(ConnectionError):
            self.answer(reply, body or b"")

    def answer(self, reply: Reply, body: bytes) -> None:
        etag = f'"{hash(body):x}"'
        headers: dict[str, str | None] = {"ETag": etag, "Content-Type": "application/octet-stream"}
        headers |= {"Connection": "close"}
        status, start = 200, 0
        if reply.status is not None:
            status, body, headers = reply.status, b"", {"Connection": "close"}
        elif reply.ranges and (match := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")):
            known = {**headers, **reply.headers}
            same = (None, known.get("ETag"), known.get("Last-Modified"))
            if self.headers["If-Range"] in same or not reply.conditional:
                status, start = 206, int(match[1])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if status == 206 and start >= len(body):
            status, body, headers = 416, b"", {"Content-Range": f"bytes */{len(body)}"}
        if reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body) - start)
        self.send_response(status)
        for name, value in {**headers, **reply.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.send(reply, body[start:])

    def send(self, reply: Reply, body: bytes) -> None:
        stops = [stop for stop in (reply.cut, reply.hold) if stop is not None]
        end = min([len(body), *stops])
        for at in range(0, end, reply.piece):
            piece = body[at : min(at + reply.piece, end)]
            if reply.chunked:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            self.wfile.write(piece)
        if reply.hold == end:
            self.fault.held.set()
            self.fault.released.wait()
        elif reply.cut is None and reply.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def fault_server(*, tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    """Run a server on a free port of 127.0.0.1, encrypted with ``tls``."""
    fault = FaultServer("")
    handler = type("Handler", (_Handler,), {"fault": fault})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        if tls is not None:
            # The handler does the handshake, because it may fail and must not block other requests.
            running.socket = tls.wrap_socket(
                running.socket, server_side=True, do_handshake_on_connect=False
            )
            running.handle_error = lambda *_: None  # type: ignore[method-assign]
        scheme = "https" if tls else "http"
        fault.url = f"{scheme}://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fault
        finally:
            fault.released.set()
            running.shutdown()
            thread.join()
