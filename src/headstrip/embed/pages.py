"""Files of several pages or frames: how many there are, and a row for each.

Nothing here imports torch.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from headstrip.embed.sources import Item, Reader
from headstrip.errors import ImageError
from headstrip.images import tiff
from headstrip.images.decode import open_bytes, opened_file, reasons

Pages = Literal["first", "all"]
PAGES: tuple[Pages, ...] = get_args(Pages)

_QUICK = 1 << 23
"""Bytes up to which the frames of a GIF are counted by a run that uses the first alone."""


def count_pages(data: bytes, *, exact: bool = True) -> int:
    """Count the pages of a TIFF, or the frames of an animation.

    A JPEG is one picture, whatever previews or gain maps are stored behind it.

    Args:
        data: All bytes of the file.
        exact: Whether a large GIF is gone through; otherwise 2 stands for "more than one".

    Returns:
        The number, 1 for what cannot be read, ``tiff.MAX_PAGES`` for a TIFF of more.
    """
    if data[:2] == b"\xff\xd8":
        return 1
    try:
        with reasons():
            image = open_bytes(data)
            if image.format == "TIFF":
                return tiff.count_pages(io.BytesIO(data))
            if not exact and image.format == "GIF" and len(data) > _QUICK:
                return 1 + bool(getattr(image, "is_animated", False))
            return int(getattr(image, "n_frames", 1))
    except ImageError:
        return 1


def count_pages_of(path: str | os.PathLike[str]) -> int:
    """Count the pages of a file as ``count_pages`` does, 1 for one that cannot be read."""
    try:
        with reasons(), opened_file(path) as file:
            return count_pages(file.read(), exact=False)
    except ImageError:
        return 1


def paged(items: Iterable[Item], reader: Reader) -> Iterator[Item]:
    """Put an item for each page in the place of each file that has several.

    Args:
        items: The files of a source.
        reader: What has their bytes; each is read, to count its pages.

    Yields:
        A file of one page as it is; of any other one its pages, ``a.tif#1``, ``a.tif#2`` and so on.
    """
    for item in items:
        try:
            count = count_pages(reader.read(item))
        except ImageError:
            # Its row says why.
            count = 1
        if count == 1:
            yield item
        for page in range(1, count + 1) if count > 1 else ():
            yield item._replace(path=f"{item.path}#{page}", page=page)


@dataclass(frozen=True)
class PagedReader:
    """Reads the file of each page that ``paged`` lists.

    Attributes:
        reader: What has the bytes of the files.
    """

    reader: Reader

    def read(self, item: Item) -> bytes:
        """Return the bytes of the whole file that a page is of.

        Raises:
            ImageError: It cannot be read.
        """
        return self.reader.read(file_of(item))


def file_of(item: Item) -> Item:
    """Return the file that a page is of; an item that is a file already is returned as it is."""
    if not item.page:
        return item
    return item._replace(path=item.path.rpartition("#")[0], page=0)


def page_named(path: str) -> tuple[str, int]:
    """Read a path that ``paged`` made: that of the file, and the page, counted from 1.

    Example:
        >>> page_named("scans/a.tif#12"), page_named("a.tif")
        (('scans/a.tif', 12), ('a.tif', 0))
    """
    file, hash_sign, number = path.rpartition("#")
    if not hash_sign or not number.isascii() or not number.isdigit() or len(number) > 9:
        return path, 0
    return file, int(number)


def page_of(data: bytes, page: int) -> Image.Image:
    """Open a page of a file, counted from 1; 0 is the first too.

    Raises:
        ImageError: There is no such page.
    """
    return open_bytes(data, max(0, page - 1))
