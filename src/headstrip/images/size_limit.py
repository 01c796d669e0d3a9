"""Open image files, and limit their size. Sources use this to read images without Pillow."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from headstrip.errors import ImageError

MAX_BYTES = 1 << 28
"""The largest encoded image that headstrip reads, in bytes."""


def refuse_size(size: int) -> None:
    """Refuse an image that is too large.

    Raises:
        ImageError: It has more than ``MAX_BYTES``.
    """
    if size > MAX_BYTES:
        raise ImageError(f"it has {size} bytes, and at most {MAX_BYTES} are read.")


@contextmanager
def opened_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open an image file.

    Raises:
        ImageError: It is not a regular file, is empty, or has more than ``MAX_BYTES``.
        OSError: The system cannot open it.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        # Opening a pipe would wait.
        raise ImageError("it is not a regular file.")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        refuse_size(size)
        if not size:
            raise ImageError("the file is empty.")
        yield file
