"""Files that are open in this process, and where they are."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Generic, Protocol, TypeVar, cast

from headstrip.embed.files import original_path
from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.items import stamp_in
from headstrip.errors import HeadstripError, ImageError


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Let go of the file."""
        ...


Opened = TypeVar("Opened", bound=Closable)


class Shelf(Generic[Opened]):
    """What is open in this process; the one least recently used gives way to the next.

    Pickled, it has nothing open, and one thread at a time takes what is.
    """

    def __init__(self, opening: Callable[[str], Opened], limit: int) -> None:
        """Take what opens a place, and how many stay open."""
        self._opening, self._limit = opening, limit
        self._reset()

    def _reset(self) -> None:
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._lock, self._process = threading.Lock(), os.getpid()

    @contextmanager
    def taken(self, place: str) -> Iterator[Opened]:
        """Open a place, or find it open, for the length of the body."""
        if self._process != os.getpid():
            # A forked process shares positions with its parent.
            self._reset()
        with self._lock:
            if place not in self._opened:
                self._opened[place] = self._opening(place)
                if len(self._opened) > self._limit:
                    self._opened.popitem(last=False)[1].close()
            self._opened.move_to_end(place)
            yield self._opened[place]

    def close(self) -> None:
        """Close all that is open."""
        while self._opened:
            self._opened.popitem()[1].close()

    def __del__(self) -> None:
        # A reader is dropped without a word when its worker is done.
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_opening": self._opening, "_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def joined(root: str, stored: str) -> str:
    """Return where a stored path leads from a folder or url; one that is a url leads there."""
    if is_url(stored):
        return original_path(stored)
    if is_url(root):
        return f"{root}{'' if root.endswith('/') else '/'}{original_path(stored)}"
    return os.path.join(root, original_path(stored))


def open_place(place: str, access: Access) -> BinaryIO:
    """Open a file or a url, to be read at any position.

    Args:
        place: The file or the url.
        access: Which urls may be read.

    Raises:
        HeadstripError: The url may not be read, or its driver is missing.
        OSError: It cannot be opened.
    """
    if is_url(place):
        from headstrip.embed.sources.urls import filesystem

        files, path = filesystem(place, access)
        return cast(BinaryIO, files.open(path, "rb"))
    return open(place, "rb")


def modified(place: str, access: Access) -> int:
    """Return when a file or url was written, in ns since 1970; 0 where it is not known."""
    if is_url(place):
        from headstrip.embed.sources.urls import filesystem, stamp

        files, path = filesystem(place, access)
        return stamp(files.info(path))[1]
    return stamp_in(os.stat(place))[1]


def refuse_changed(listed: int, found: int) -> None:
    """Refuse to look for an image where it was before its file was written anew.

    Raises:
        ImageError: Both times are known, and differ.
    """
    if listed and found and listed != found:
        raise ImageError("the file that holds it was changed after it was listed.")


def unreadable(place: str, why: str) -> HeadstripError:
    """Return the error of a file whose images cannot be listed."""
    return HeadstripError(
        f"{place!r} cannot be read: {why}. Replace it, or leave it out of the source."
    )
