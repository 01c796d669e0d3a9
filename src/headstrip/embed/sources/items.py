"""What every source has in common: items with a name, and a reader that returns their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from headstrip.errors import HeadstripError, ImageError, one_line

_LONGEST_REASON = 300
_MAX_INT64 = (1 << 63) - 1


class Item(NamedTuple):
    """One image of a source.

    Attributes:
        path: Its name in a table, unique in the source: for a row of a list its text where that is
            Unicode, otherwise as ``stored_path`` writes it.
        size: Its bytes, 0 where they are not known before it is read.
        modified: When it, or the file that holds it, was written, in ns since 1970; 0 where that
            is not known. A time that does not fit 64 bits is clipped; see ``is_clipped``.
        container: The file that holds it; empty where the image is a file itself. For a row of a
            list whose name ``original_path`` would misread, the row as ``stored_path`` writes it.
        offset: Its position in that file: a byte or a row.
        page: The page or frame of the file, counted from 1; 0 where the first stands for all.
        kept: The cells of its row in a list that the caller keeps, as JSON; empty without any.
    """

    path: str
    size: int
    modified: int
    container: str = ""
    offset: int = 0
    page: int = 0
    kept: str = ""


class Reader(Protocol):
    """Reads the items of a source. It pickles to a few bytes, for worker processes."""

    def read(self, item: Item) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: It cannot be read. The message is the reason alone, without the path.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """Images that can be listed."""

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        ...

    def items(self) -> Iterator[Item]:
        """List the images one by one, in any order.

        Raises:
            HeadstripError: The source cannot be listed completely.
        """
        ...

    def reader(self) -> Reader:
        """Return the reader of the items."""
        ...


def clip_to_int64(value: int) -> int:
    """Return the number nearest to ``value`` that a column of 64-bit integers can hold.

    Example:
        >>> clip_to_int64(13_569_465_600 * 10**9) == 2**63 - 1
        True
    """
    return max(-_MAX_INT64, min(value, _MAX_INT64))


def is_clipped(modified: int) -> bool:
    """Whether ``clip_to_int64`` may have returned this time for several different times.

    Example:
        >>> is_clipped(clip_to_int64(13_569_465_600 * 10**9)), is_clipped(10**18)
        (True, False)
    """
    return abs(modified) >= _MAX_INT64


def size_and_time(found: os.stat_result) -> tuple[int, int]:
    """Return a file's bytes and when it was written (ns since 1970), clipped to 64 bits."""
    return clip_to_int64(found.st_size), clip_to_int64(found.st_mtime_ns)


def size_and_time_of(path: str | os.DirEntry[str]) -> tuple[int, int]:
    """Return what ``size_and_time`` does, zeros where the system does not say."""
    try:
        return size_and_time(path.stat() if isinstance(path, os.DirEntry) else os.stat(path))
    except (OSError, ValueError):
        # Reading it fails too, and its row has the reason.
        return 0, 0


def reason_of(error: BaseException) -> str:
    """Return in a few words why a file could not be read, without its name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, FileNotFoundError):
        # fsspec raises this too when a server cannot be reached, or answers with an error.
        cause = error.__cause__
        is_other = cause is not None and not isinstance(cause, FileNotFoundError)
        return reason_of(cause) if is_other and cause else "No such file or directory"
    if isinstance(status := getattr(error, "status", None), int):
        # An error of aiohttp. Its text has the whole url, with passwords and signatures.
        if not status:
            return "the server redirects it too often"
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    return one_line(error, _LONGEST_REASON)


def unreadable(shown: str, why: str) -> HeadstripError:
    """Return the error for a file whose images cannot be listed."""
    return HeadstripError(
        f"{shown!r} cannot be read: {why}. Replace it, or leave it out of the source."
    )


def refuse_repeated(shown: str, column: str, columns: list[str], where: str) -> None:
    """Refuse a table or list that has a column more than once.

    Raises:
        HeadstripError: It has.
    """
    if columns.count(column) > 1:
        raise HeadstripError(
            f"{shown!r} has {column!r} more than once {where}, and headstrip cannot tell which one "
            "is meant. Rename one of them, or remove it."
        )


@contextmanager
def listing_errors(shown: str) -> Iterator[None]:
    """Turn each error of reading a file that lists or holds images into a HeadstripError."""
    try:
        yield
    except HeadstripError:
        raise
    except Exception as error:
        # pyarrow, and the drivers of remote files, raise errors of many classes.
        raise unreadable(shown, reason_of(error)) from error


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn each error of reading one image into an ImageError with the reason alone."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        # pyarrow, and the drivers of remote files, raise errors of many classes.
        raise ImageError(f"{reason_of(error)}.") from error
