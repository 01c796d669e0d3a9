"""The HTTP client of sources: it connects to public addresses, and elsewhere where it may."""

from __future__ import annotations

import errno
import socket
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

from headstrip.embed.sources.access import (
    HTTP,
    Access,
    is_private,
    origin,
    private_refusal,
    refusal,
    scheme_of,
)
from headstrip.errors import HeadstripError

_origin: ContextVar[str] = ContextVar("origin", default="")
"""Where the request under way goes; empty once it was redirected to somewhere else."""


@dataclass(frozen=True)
class Client:
    """What makes the session of fsspec's HTTP driver; equal ones share a session.

    Every address is checked at the moment of the connection, so a server that is redirected to, or
    a name that is looked up twice, leads nowhere else.

    Attributes:
        access: What is allowed.
    """

    access: Access

    async def __call__(self, **settings: Any) -> Any:
        """Open a session in the running event loop.

        Raises:
            HeadstripError: The installed aiohttp cannot check connections.
        """
        import aiohttp

        checked: dict[str, Any] = {}
        if not self.access.private:
            checked["socket_factory"] = self._socket
        try:
            connector = aiohttp.TCPConnector(**checked)
        except TypeError as error:
            raise HeadstripError(
                f"aiohttp {aiohttp.__version__} cannot check where it connects to. "
                "Run pip install 'headstrip[fsspec]', which brings a later one."
            ) from error
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._start)
        trace.on_request_redirect.append(self._redirect)
        return aiohttp.ClientSession(connector=connector, trace_configs=[trace], **settings)

    async def _start(self, session: Any, context: Any, request: Any) -> None:
        _origin.set(origin(str(request.url)))

    async def _redirect(self, session: Any, context: Any, request: Any) -> None:
        headers = request.response.headers
        target = urljoin(str(request.url), headers.get("Location") or headers.get("URI") or "")
        is_same = origin(target) == _origin.get()
        _origin.set(origin(target) if is_same else "")
        # What the user typed is trusted; what its server redirects to is not.
        access = self.access if is_same else replace(self.access, home="")
        if scheme_of(target) not in HTTP:
            why: str | None = "headstrip follows redirects to http and https alone"
        else:
            why = refusal(target, access)
        if why:
            raise PermissionError(errno.EACCES, f"it is redirected, and {why.rstrip('.')}")

    def _socket(self, found: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = found
        is_home = bool(self.access.home) and _origin.get() == self.access.home
        if is_private(address[0]) and not is_home:
            raise PermissionError(errno.EACCES, private_refusal(address[0]))
        return socket.socket(family, kind, protocol)
