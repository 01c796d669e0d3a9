"""What a source of images is: items with a name, and a reader that has their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from headstrip.embed.files import escape
from headstrip.embed.sources.access import is_url
from headstrip.errors import ImageError, one_line

MAX_BYTES = 1 << 28
"""Bytes of one encoded image that are read at most."""

_LONGEST = 300
_MOST = (1 << 63) - 1


class Item(NamedTuple):
    """One image of a source.

    Attributes:
        path: Its name in a table, unique in the source: the text of a row of a list where that is
            text, otherwise as ``stored_path`` writes it.
        size: Its bytes, 0 where they are not known before it is read.
        modified: When it, or the file that holds it, was written, in ns since 1970; 0 where it
            is not known. A time that 64 bits cannot hold is the nearest that they can; see
            ``is_clipped``.
        place: The file that holds it, for a reader to find it; empty where it is a file itself. For
            a row of a list whose name ``original_path`` would misread, the row as ``stored_path``
            writes it.
        offset: Where it is in that file: a byte or a row.
        page: Which page or frame of the file, counted from 1; 0 where the first stands for all.
    """

    path: str
    size: int
    modified: int
    place: str = ""
    offset: int = 0
    page: int = 0


class Reader(Protocol):
    """What has the bytes of a source's items; pickled, it is a name or two."""

    def read(self, item: Item) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: It cannot be read; the message is the reason and nothing else.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """Images that can be listed."""

    @property
    def is_stream(self) -> bool:
        """Whether the items can be had once only."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        ...

    def items(self) -> Iterator[Item]:
        """List the images one by one, in any order.

        Raises:
            HeadstripError: The source cannot be listed whole.
        """
        ...

    def reader(self) -> Reader:
        """Return what reads them."""
        ...


def in_column(value: int) -> int:
    """Return the number nearest to ``value`` that a column of 64-bit integers can hold.

    Example:
        >>> in_column(13_569_465_600 * 10**9) == 2**63 - 1
        True
    """
    return max(-_MOST, min(value, _MOST))


def is_clipped(modified: int) -> bool:
    """Whether a time is one that ``in_column`` may have made of several.

    Example:
        >>> is_clipped(in_column(13_569_465_600 * 10**9)), is_clipped(10**18)
        (True, False)
    """
    return abs(modified) >= _MOST


def stamp_in(found: os.stat_result) -> tuple[int, int]:
    """Return a file's bytes, and when it was written in ns since 1970, as columns can hold them."""
    return in_column(found.st_size), in_column(found.st_mtime_ns)


def row_name(place: str, row: int) -> str:
    """Return the name of the image in a row of a file.

    Example:
        >>> row_name("data/train.parquet", 17)
        'data/train.parquet/000000017'
    """
    return f"{place}/{row:09d}"


def shown_place(place: str) -> str:
    """Return a place as a table may tell it: without a password or the signature of a url."""
    if not is_url(place):
        return escape(os.fsencode(place))
    scheme, _, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    if scheme.lower() in {"http", "https"}:
        path = path.partition("?")[0]
    return escape(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".encode())


def failure(error: BaseException) -> str:
    """Return in a few words why a file could not be read, without its name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, FileNotFoundError):
        # fsspec says so of a server that cannot be reached.
        cause = error.__cause__
        is_other = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        return failure(cause) if is_other and cause else "No such file or directory"
    return one_line(error)[:_LONGEST].rstrip(".")


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn what reading raises into an ImageError with the reason alone."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        # Drivers of remote files raise what their libraries do.
        raise ImageError(f"{failure(error)}.") from error


def refuse_size(size: int) -> None:
    """Refuse an image of more bytes than are read.

    Raises:
        ImageError: It has more than ``MAX_BYTES``.
    """
    if size > MAX_BYTES:
        raise ImageError(f"it has {size} bytes, and at most {MAX_BYTES} are read.")
