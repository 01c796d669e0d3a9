"""Images that a Python iterable yields one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from headstrip.embed.sources.access import Access
from headstrip.embed.sources.files import FileReader, item_of_row
from headstrip.embed.sources.items import Item, Reader
from headstrip.errors import HeadstripError, OptionError
from headstrip.system.arguments import type_of

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class StreamSource:
    """Paths, bytes, file objects, PIL images or arrays of an iterable; only one is held at a time.

    The name of a path is its text. Other images are numbered from ``000000001``. Names are not
    stored, so a path that comes twice makes two rows.
    """

    def __init__(self, images: Iterable[Any], access: Access | None = None) -> None:
        """Take the images, without asking for one yet.

        Args:
            images: The images.
            access: Which urls may be read.

        Raises:
            HeadstripError: It is a single image, or not iterable.
            OptionError: It is a dict or a table, which yields its keys or the names of its columns.
        """
        kind = type_of(images)
        if isinstance(images, Mapping):
            raise OptionError(
                f"The source is {kind}, and the images could be its keys or its values. Pass the "
                "list of its values, or of its keys if these are the paths."
            )
        if hasattr(images, "columns"):
            raise OptionError(
                f"The source is {kind}, and headstrip does not know which column has the images. "
                "Pass a list of one column, such as list(table['path'])."
            )
        if _is_image(images) and getattr(images, "ndim", 0) < 4:
            raise HeadstripError(f"The source is one image ({kind}). Put it in a list.")
        if not isinstance(images, Iterable):
            raise HeadstripError(
                f"The source is {kind}, which holds no images. Pass a folder, a list or "
                "an archive, or pass an iterable of paths, PIL images, uint8 arrays or bytes."
            )
        self._images, self._root, self._access = images, os.getcwd(), access or Access()

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": "stream", "where": f"images of {type_of(self._images)}"}

    def pairs(self) -> Iterator[tuple[Item, bytes | np.ndarray | Image.Image | None]]:
        """List the images once, in their order.

        Yields:
            The item of each image, and its encoded bytes, its array, its file object or the PIL
            image; None for a path, which the reader reads.

        Raises:
            HeadstripError: One is of another type, or a set has images without names: their
                numbers would differ from run to run.
        """
        has_order = not isinstance(self._images, (set, frozenset))
        for number, image in enumerate(self._images, 1):
            name = f"{number:09d}"
            if isinstance(image, (str, os.PathLike)):
                yield item_of_row(self._root, os.fsdecode(image)), None
            elif not has_order:
                raise HeadstripError(
                    f"The source is a set with {type_of(image)}. headstrip numbers images "
                    "that have no path, and a set has no order. Pass a list."
                )
            elif isinstance(image, (bytes, bytearray, memoryview)):
                content = bytes(image)
                yield Item(name, len(content), 0), content
            elif _is_image(image):
                yield Item(name, 0, 0), image
            else:
                raise HeadstripError(
                    f"Image {number} of the iterable is {type_of(image)}. Pass paths, PIL "
                    "images, uint8 arrays (height, width, 3), bytes of image files or binary file "
                    "objects."
                )

    def items(self) -> Iterator[Item]:
        """List the images once, without their pixels; see ``pairs``."""
        return (item for item, _ in self.pairs())

    def reader(self) -> Reader:
        """Return the reader of the images that are paths."""
        return FileReader(self._root, self._access, is_list=True)


def _is_image(value: Any) -> bool:
    import numpy as np
    from PIL import Image

    kinds = (bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(value, kinds) or callable(getattr(value, "read", None))
