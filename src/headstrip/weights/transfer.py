"""Send one request for a file or for the rest of a file, and check the server's answer."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from headstrip.errors import one_line

_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_TEMPORARY = frozenset({408, 425, 429})


class RefusedError(Exception):
    """A failure that another attempt would not change."""


class InterruptedTransferError(Exception):
    """A failure that another attempt may change.

    Attributes:
        wait: How many seconds the server asks to wait before another attempt, or None.
    """

    wait: float | None = None


class UnreachedError(InterruptedTransferError):
    """headstrip could not connect to the server."""


class OtherFileError(InterruptedTransferError):
    """The file on the server is not the one whose download was interrupted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to the request for a file.

    Attributes:
        response: The open response with the bytes.
        start: The position of its first byte in the file.
        total: The size of the complete file in bytes, or None if the server does not state it.
        validator: The ``ETag`` of the file, otherwise its ``Last-Modified``, otherwise "".
    """

    response: HTTPResponse
    start: int
    total: int | None
    validator: str


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirects, except from an encrypted connection to an unencrypted one."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not newurl.startswith("https://") and (
            req.type == "https" or not newurl.startswith("http://")
        ):
            fp.close()
            raise RefusedError(f"the server redirects to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener() -> OpenerDirector:
    """Return an opener of URLs that uses the proxies of the environment."""
    return build_opener(_SafeRedirects)


def request_file(
    opener: OpenerDirector, url: str, *, start: int, validator: str, timeout: float
) -> Answer:
    """Request a file from the byte ``start`` to its end.

    Args:
        opener: Opens the URL.
        url: The address of the file.
        start: How many bytes headstrip received before. A server may send the complete file anyway.
        validator: The validator of the answer with these bytes, or "".
        timeout: Seconds without a byte after which the request fails.

    Raises:
        RefusedError: The server does not send the file.
        InterruptedTransferError: The server does not send the file now.
    """
    # Request the bytes uncompressed, because headstrip counts and hashes them.
    headers = {"User-Agent": "headstrip", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response = opener.open(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        with error:
            raise _error_of(error, start) from error
    except URLError as error:
        reason = error.reason
        text = one_line(reason) if isinstance(reason, BaseException) else str(reason)
        raise UnreachedError(text) from error
    except http.client.RemoteDisconnected as error:
        raise InterruptedTransferError(one_line(error)) from error
    except HTTPException as error:
        raise RefusedError(f"{type(error).__name__}: {one_line(error)}") from error
    except OSError as error:
        raise InterruptedTransferError(one_line(error)) from error
    try:
        return _checked(response, start)
    except BaseException:
        response.close()
        raise


def chunks(answer: Answer) -> Iterator[bytes]:
    """Yield the bytes of an answer as they arrive.

    Raises:
        InterruptedTransferError: The connection ends before the file is complete, or no byte
            arrives for too long.
    """
    response, received = answer.response, answer.start
    while answer.total is None or received < answer.total:
        try:
            most = _CHUNK if answer.total is None else min(_CHUNK, answer.total - received)
            chunk = response.read1(most)
        except (OSError, HTTPException) as error:
            raise InterruptedTransferError(
                f"the connection broke after {received:,} bytes: {one_line(error)}"
            ) from error
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if answer.total is not None and received != answer.total:
        raise InterruptedTransferError(
            f"the server closed the connection after {received:,} of {answer.total:,} bytes"
        )


def _error_of(error: HTTPError, start: int) -> Exception:
    """Return the exception for a status that means a failure."""
    text = f"the server answers {error.code} {error.reason}"
    if error.code == 416 and start:
        return OtherFileError(f"{text}: the file on the server is shorter than the part received")
    if error.code not in _TEMPORARY and error.code < 500:
        return RefusedError(text)
    wait = _retry_after(error.headers)
    asks = "" if wait is None else f", and asks to wait {wait:.0f} s"
    temporary = InterruptedTransferError(f"{text}{asks}")
    temporary.wait = wait
    return temporary


def _retry_after(headers: Message) -> float | None:
    """Return the seconds in ``Retry-After``, which is a number or a date."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _checked(response: HTTPResponse, start: int) -> Answer:
    headers = response.headers
    if headers.get_content_type() == "text/html":
        raise RefusedError(
            "the server sends a web page (text/html) instead of the file, such as the login page "
            "of a network"
        )
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RefusedError(
            "the server compresses the file, although headstrip asked for it uncompressed"
        )
    if response.status == 206:
        begin, size = _range(headers)
        if begin != start:
            raise OtherFileError("the server sends a different part than headstrip asked for")
        return Answer(response, start, size, _validator(headers))
    if response.status != 200:
        raise RefusedError(f"the server answers {response.status} {response.reason}")
    length = headers.get("Content-Length", "").strip()
    if not length.isdecimal() and not response.chunked:
        raise RefusedError(
            "the server does not state the size of the file, so headstrip could not notice an "
            "incomplete download"
        )
    total = int(length) if length.isdecimal() and not response.chunked else None
    return Answer(response, 0, total, _validator(headers))


def _range(headers: Message) -> tuple[int, int]:
    """Return the position of the first byte in an answer, and the size of the file."""
    match = _RANGE.fullmatch((headers.get("Content-Range") or "").strip())
    if match is None or not int(match[1]) <= int(match[2]) < int(match[3]):
        raise OtherFileError("the server does not state which part of the file it sends")
    return int(match[1]), int(match[3])


def _validator(headers: Message) -> str:
    etag = (headers.get("ETag") or "").strip()
    # Two files with different bytes may have the same weak ETag.
    if etag and not etag.startswith("W/"):
        return etag
    return (headers.get("Last-Modified") or "").strip()
