"""Opens files, also behind urls, which fsspec reads: ``s3://``, ``https://``, what users allow.

An http client checks each address when it connects, so neither a redirect nor a name that resolves
to another address the second time leads to a machine that may not be read.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, BinaryIO, cast
from urllib.parse import urljoin

from headstrip.embed.sources.access import (
    HTTP,
    Access,
    is_private,
    is_url,
    origin,
    private_refusal,
    refusal,
    scheme_of,
)
from headstrip.embed.sources.items import clip_to_int64, reason_of
from headstrip.embed.sources.names import display_name
from headstrip.errors import HeadstripError, ImageError
from headstrip.images.size_limit import MAX_BYTES, refuse_size

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_origin: ContextVar[str] = ContextVar("origin", default="")
"""Where the current request goes; empty once it was redirected to another server."""


def filesystem(url: str, access: Access) -> tuple[Any, str]:
    """Return fsspec's file system of a url, and the path in it.

    headstrip reads every url through this function. It does not use fsspec's own parsing of urls,
    which follows chains of file systems.

    Args:
        url: The address.
        access: Which addresses may be read.

    Raises:
        HeadstripError: The url may not be read, or fsspec or its driver is not installed.
    """
    if why := refusal(url, access):
        raise HeadstripError(f"{display_name(url)!r} cannot be read: {why}")
    try:
        from fsspec import get_filesystem_class
    except ImportError as error:
        raise HeadstripError(
            f"{display_name(url)!r} is a url, and fsspec, which reads it, is not installed. "
            "Run pip install 'headstrip[fsspec]'."
        ) from error
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    url = f"{scheme}://{rest}"
    try:
        driver = get_filesystem_class(scheme)
        options = driver._get_kwargs_from_urls(url)
        if scheme in HTTP:
            options["get_client"] = _Client(access)
        return driver(**options), driver._strip_protocol(url)
    except (ImportError, TypeError, ValueError) as error:
        raise HeadstripError(
            f"{display_name(url)!r} cannot be read: fsspec has no driver for {scheme!r} here "
            f"({reason_of(error)}). Check the scheme, or install the package of its driver."
        ) from error


def open_location(location: str, access: Access) -> BinaryIO:
    """Open a file or a url, to be read at any position.

    Raises:
        HeadstripError: The url may not be read, or its driver is missing.
        OSError: It cannot be opened.
    """
    if is_url(location):
        files, path = filesystem(location, access)
        return cast(BinaryIO, files.open(path, "rb"))
    return open(location, "rb")


def size_and_time_in(info: Mapping[str, Any]) -> tuple[int, int]:
    """Return the bytes of a file and when it was written, in ns; 0 for what a driver omits.

    A server can state any number, so both are clipped to 64 bits.
    """
    size = info.get("size")
    times = (_nanoseconds(info[name]) for name in _TIMES if info.get(name) is not None)
    known = clip_to_int64(max(0, size)) if isinstance(size, int) else 0
    return known, next(filter(None, times), 0)


def read_url(url: str, size: int, access: Access) -> bytes:
    """Return the bytes behind a url.

    Args:
        url: The address of one image.
        size: Its bytes, 0 where they are not known.
        access: Which addresses may be read.

    Raises:
        ImageError: It is empty, or larger than ``MAX_BYTES``.
        Exception: Any error of fsspec's driver.
    """
    refuse_size(size)
    files, path = filesystem(url, access)
    if size:
        content = files.cat_file(path)
    else:
        with files.open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    refuse_size(len(content))
    if not content:
        raise ImageError("the file is empty.")
    return bytes(content)


def _nanoseconds(value: Any) -> int:
    """Return a time that a driver states as ns since 1970, 0 where it is not a time."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            value = aware.timestamp()
        return clip_to_int64(int(value * 10**9)) if isinstance(value, (int, float)) else 0
    except (ValueError, OverflowError):
        # NaN, an infinite number, or text that is not a date.
        return 0


@dataclass(frozen=True)
class _Client:
    """Makes the session of fsspec's HTTP driver. fsspec shares a session between equal ones."""

    access: Access

    async def __call__(self, **settings: Any) -> Any:
        """Open a session in the running event loop."""
        import aiohttp

        checked: dict[str, Any] = {}
        if not self.access.private:
            checked["socket_factory"] = self._socket
        try:
            connector = aiohttp.TCPConnector(**checked)
        except TypeError as error:
            raise HeadstripError(
                f"aiohttp {aiohttp.__version__} cannot check where it connects to. "
                "Run pip install 'headstrip[fsspec]', which installs a newer one."
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
        # headstrip trusts the server that the user typed, not the ones it redirects to.
        access = self.access if is_same else replace(self.access, home="")
        if scheme_of(target) not in HTTP:
            why: str | None = "headstrip follows redirects to http and https alone"
        else:
            why = refusal(target, access)
        if why:
            raise PermissionError(errno.EACCES, f"the server redirects it, and {why.rstrip('.')}")

    def _socket(self, found: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = found
        is_home = bool(self.access.home) and _origin.get() == self.access.home
        if is_private(address[0]) and not is_home:
            raise PermissionError(errno.EACCES, private_refusal(address[0]))
        return socket.socket(family, kind, protocol)
