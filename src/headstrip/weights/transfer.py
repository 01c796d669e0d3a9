"""One request for a file, or for the rest of one: what the server answers is checked."""

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
_PASSING = frozenset({408, 425, 429})


class RefusedError(Exception):
    """An answer that another attempt would not change."""


class InterruptedTransferError(Exception):
    """A failure that may pass.

    Attributes:
        wait: Seconds after which the server wants to be asked again, None where it does not say.
    """

    wait: float | None = None


class UnreachedError(InterruptedTransferError):
    """No connection to the server came about."""


class OtherFileError(InterruptedTransferError):
    """The server has another file than the one that was started."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to the request for a file.

    Attributes:
        response: What the bytes are read from.
        start: Where in the file they begin.
        total: Size of the whole file, None where the server does not say.
        validator: The ``ETag`` of the file, else its ``Last-Modified``, else "".
    """

    response: HTTPResponse
    start: int
    total: int | None
    validator: str


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirections, but none that leads from an encrypted connection to an open one."""

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
    """Return what opens URLs, by way of the proxies of the environment."""
    return build_opener(_SafeRedirects)


def ask(by: OpenerDirector, url: str, *, start: int, validator: str, timeout: float) -> Answer:
    """Ask for a file from the byte ``start`` on.

    Args:
        by: What opens the URL.
        url: Its address.
        start: How many bytes of it were received; a server may still send it from the beginning.
        validator: What those were sent with, "" where it is not known.
        timeout: Seconds without a sign of the server after which headstrip gives up.

    Raises:
        RefusedError: The server will not give it.
        InterruptedTransferError: It does not now.
    """
    # Unencoded: the bytes are counted and hashed in the form that the server stores.
    headers = {"User-Agent": "headstrip", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response = by.open(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        with error:
            raise _answered(error, start) from error
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
    """Yield the bytes of an answer as they come.

    Raises:
        InterruptedTransferError: They end before the file does, or none comes for too long.
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


def _answered(error: HTTPError, start: int) -> Exception:
    """Return the exception for a status other than success."""
    text = f"the server answers {error.code} {error.reason}"
    if error.code == 416 and start:
        return OtherFileError(f"{text}: its file is shorter than what was received of it")
    if error.code not in _PASSING and error.code < 500:
        return RefusedError(text)
    wait = _retry_after(error.headers)
    passing = InterruptedTransferError(text if wait is None else f"{text}, for {wait:.0f} s")
    passing.wait = wait
    return passing


def _retry_after(headers: Message) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, in numbers or as a date."""
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
            "the server sends a web page (text/html) and no file, such as a network's log-in page"
        )
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RefusedError("the server sends the file compressed, which it was not asked for")
    if response.status == 206:
        begin, size = _range(headers)
        if begin != start:
            raise OtherFileError("the server sends another part of the file than was asked for")
        return Answer(response, start, size, _validator(headers))
    if response.status != 200:
        raise RefusedError(f"the server answers {response.status} {response.reason}")
    length = headers.get("Content-Length", "").strip()
    if not length.isdecimal() and not response.chunked:
        raise RefusedError(
            "the server does not say how long the file is, and a cut would go unnoticed"
        )
    total = int(length) if length.isdecimal() and not response.chunked else None
    return Answer(response, 0, total, _validator(headers))


def _range(headers: Message) -> tuple[int, int]:
    """Return where a part of a file begins, and the size of the file."""
    match = _RANGE.fullmatch((headers.get("Content-Range") or "").strip())
    if match is None or not int(match[1]) <= int(match[2]) < int(match[3]):
        raise OtherFileError("the server does not say which part of the file it sends")
    return int(match[1]), int(match[3])


def _validator(headers: Message) -> str:
    etag = (headers.get("ETag") or "").strip()
    # A weak one may be that of two files with other bytes.
    if etag and not etag.startswith("W/"):
        return etag
    return (headers.get("Last-Modified") or "").strip()
