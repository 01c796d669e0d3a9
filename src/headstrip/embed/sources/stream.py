"""Images that a program hands over one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from headstrip.embed.sources.access import Access
from headstrip.embed.sources.items import Item
from headstrip.embed.sources.rows import RowReader, listed
from headstrip.errors import HeadstripError


class StreamSource:
    """Paths, bytes, file objects, PIL images or arrays of an iterable, each held until the next.

    A path is named as it was written, anything else by its number, which starts at
    ``000000001``. Nothing here remembers names, so a path that comes twice is two rows.
    """

    is_stream = True

    def __init__(self, images: Iterable[Any], access: Access | None = None) -> None:
        """Take the images; none is asked for yet.

        Args:
            images: The images.
            access: Which urls may be read.

        Raises:
            HeadstripError: It is one image, or cannot be gone through.
        """
        is_one = isinstance(images, (bytes, bytearray, memoryview, Image.Image))
        is_one = is_one or _is_file(images)
        if is_one or (isinstance(images, np.ndarray) and images.ndim < 4):
            raise HeadstripError(
                f"The source is one image (a {type(images).__name__}). Put it in a list."
            )
        if not isinstance(images, Iterable):
            raise HeadstripError(
                f"A {type(images).__name__} is no source of images. Name a folder, a list or an "
                "archive, or pass an iterable of paths, PIL images, uint8 arrays or bytes."
            )
        self._images, self._root, self._access = images, os.getcwd(), access or Access()

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": "stream", "where": f"images of a {type(self._images).__name__}"}

    def pairs(self) -> Iterator[tuple[Item, bytes | np.ndarray | Image.Image | None]]:
        """Go through the images once, in their order.

        Yields:
            Each one's item, and its encoded bytes, its array or the PIL image; None for a path,
            which the reader reads.

        Raises:
            HeadstripError: One is of another kind.
        """
        for number, image in enumerate(self._images, 1):
            if isinstance(image, (str, os.PathLike)):
                yield listed(self._root, os.fsdecode(image)), None
                continue
            name = f"{number:09d}"
            if isinstance(image, (bytes, bytearray, memoryview)):
                content = bytes(image)
                yield Item(name, len(content), 0), content
            elif isinstance(image, (Image.Image, np.ndarray)) or _is_file(image):
                yield Item(name, 0, 0), image
            else:
                raise HeadstripError(
                    f"Image {number} of the iterable is a {type(image).__name__}. Pass paths, PIL "
                    "images, uint8 arrays (height, width, 3), bytes of image files or binary file "
                    "objects."
                )

    def items(self) -> Iterator[Item]:
        """Go through the images once, for their names; ``pairs`` has what they are too."""
        return (item for item, _ in self.pairs())

    def reader(self) -> RowReader:
        """Return what reads those that are paths."""
        return RowReader(self._root, self._access)


def _is_file(value: Any) -> bool:
    return callable(getattr(value, "read", None))
