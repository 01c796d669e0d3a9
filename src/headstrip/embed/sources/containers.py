"""Images inside files that hold many: a reader that keeps the last few of these files open."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from headstrip.embed.sources.items import Item, image_errors
from headstrip.embed.sources.names import joined
from headstrip.errors import ImageError


class Container(Protocol):
    """An open file that holds images."""

    def modified(self) -> int:
        """Return when the open file was written, in ns since 1970; 0 where that is not known."""
        ...

    def read(self, item: Item) -> bytes:
        """Return the encoded image of an item, or raise any error."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class ContainerReader:
    """Reads images inside files below a folder or a url; the files that were used last stay open.

    One thread reads at a time. A pickled reader has no open files.
    """

    def __init__(self, root: str, opening: Callable[[str], Container], most_open: int) -> None:
        """Open no file yet.

        Args:
            root: The folder or url that the names of containers start from.
            opening: Opens a path or a url.
            most_open: How many files stay open.
        """
        self.root = root
        self._opening, self._most_open = opening, most_open
        self._forget()

    def _forget(self) -> None:
        self._opened: OrderedDict[str, Container] = OrderedDict()
        self._lock, self._process = threading.Lock(), os.getpid()

    def read(self, item: Item) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: It cannot be read, or its file was rewritten after it was listed: another
                image may be at that position now.
        """
        if self._process != os.getpid():
            # A forked process shares file positions with its parent.
            self._forget()
        with image_errors(), self._lock:
            container = self._open(joined(self.root, item.container))
            modified = container.modified()
            if item.modified and modified and item.modified != modified:
                raise ImageError("the file that holds it was changed after it was listed.")
            return container.read(item)

    def _open(self, location: str) -> Container:
        if location not in self._opened:
            self._opened[location] = self._opening(location)
            if len(self._opened) > self._most_open:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(location)
        return self._opened[location]

    def __del__(self) -> None:
        # A worker drops its reader without closing it.
        while self._opened:
            self._opened.popitem()[1].close()

    def __reduce__(self) -> tuple[Any, ...]:
        return ContainerReader, (self.root, self._opening, self._most_open)
