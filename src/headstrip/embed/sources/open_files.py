"""Files that hold many images, kept open in this process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.urls import filesystem


class OpenFiles:
    """The files most recently used. One thread at a time uses them; a pickle has none open."""

    def __init__(self, opening: Callable[[str], Any], limit: int) -> None:
        """Take the function that opens a path or url, and how many stay open."""
        self._opening, self._limit = opening, limit
        self._reset()

    def _reset(self) -> None:
        self._opened: OrderedDict[str, Any] = OrderedDict()
        self._lock, self._process = threading.Lock(), os.getpid()

    @contextmanager
    def using(self, location: str) -> Iterator[Any]:
        """Open a file, or take the open one, for the length of the body."""
        if self._process != os.getpid():
            # A forked process shares file positions with its parent.
            self._reset()
        with self._lock:
            if location not in self._opened:
                self._opened[location] = self._opening(location)
                if len(self._opened) > self._limit:
                    self._opened.popitem(last=False)[1].close()
            self._opened.move_to_end(location)
            yield self._opened[location]

    def __del__(self) -> None:
        # A worker drops its reader without closing it.
        while self._opened:
            self._opened.popitem()[1].close()

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, (self._opening, self._limit)


def open_location(location: str, access: Access) -> BinaryIO:
    """Open a file or a url, to be read at any position.

    Args:
        location: The file or the url.
        access: Which urls may be read.

    Raises:
        HeadstripError: The url may not be read, or its driver is missing.
        OSError: It cannot be opened.
    """
    if is_url(location):
        files, path = filesystem(location, access)
        return cast(BinaryIO, files.open(path, "rb"))
    return open(location, "rb")
