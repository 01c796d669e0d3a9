"""Files with several pages or frames: how many a file has, and one item for each.

Nothing here imports torch.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image

from headstrip.embed.sources import Item, Reader
from headstrip.errors import ImageError
from headstrip.images import tiff
from headstrip.images.decode import decoding_errors, open_bytes
from headstrip.images.size_limit import opened_file

_LARGEST_GIF = 1 << 23
"""Bytes up to which a run that uses only the first frame of a GIF counts all its frames."""


def count_pages(data: bytes, *, exact: bool = True) -> int:
    """Count the pages of a TIFF, or the frames of an animation.

    A JPEG counts as one picture, also where its file has previews or gain maps.

    Args:
        data: All bytes of the file.
        exact: Whether to read all frames of a large GIF; otherwise 2 means "more than one".

    Returns:
        The number: 1 for a file that cannot be read, at most ``tiff.MAX_PAGES`` for a TIFF.
    """
    if data[:2] == b"\xff\xd8":
        return 1
    try:
        with decoding_errors():
            image = open_bytes(data)
            if image.format == "TIFF":
                return tiff.count_pages(io.BytesIO(data))
            if not exact and image.format == "GIF" and len(data) > _LARGEST_GIF:
                return 1 + bool(getattr(image, "is_animated", False))
            return int(getattr(image, "n_frames", 1))
    except ImageError:
        return 1


def count_pages_of(path: str | os.PathLike[str]) -> int:
    """Count the pages of a file as ``count_pages`` does, 1 for a file that cannot be read."""
    try:
        with decoding_errors(), opened_file(path) as file:
            return count_pages(file.read(), exact=False)
    except ImageError:
        return 1


def split_into_pages(items: Iterable[Item], reader: Reader) -> Iterator[Item]:
    """Replace each file that has several pages by one item for each page.

    Args:
        items: The files of a source.
        reader: Reads their bytes; the function reads each file to count its pages.

    Yields:
        A file of one page unchanged; of any other file its pages, ``a.tif#1``, ``a.tif#2``, ...
    """
    for item in items:
        try:
            count = count_pages(reader.read(item))
        except ImageError:
            # Decoding fails too, and puts the reason into the row.
            count = 1
        if count == 1:
            yield item
            continue
        for page in range(1, count + 1):
            yield item._replace(path=f"{item.path}#{page}", page=page)


@dataclass(frozen=True)
class PageReader:
    """Reads the file of each page that ``split_into_pages`` yields.

    Attributes:
        reader: Reads the bytes of the files.
    """

    reader: Reader

    def read(self, item: Item) -> bytes:
        """Return the bytes of the whole file that has the page.

        Raises:
            ImageError: The file cannot be read.
        """
        return self.reader.read(file_of(item))


def file_of(item: Item) -> Item:
    """Return the file that has a page; an item that is a file already comes back unchanged."""
    if not item.page:
        return item
    return item._replace(path=item.path.rpartition("#")[0], page=0)


def split_page(path: str) -> tuple[str, int]:
    """Split the path of a page into the path of its file and the page's number, from 1.

    Example:
        >>> split_page("scans/a.tif#12"), split_page("a.tif")
        (('scans/a.tif', 12), ('a.tif', 0))
    """
    file, hash_sign, number = path.rpartition("#")
    if not hash_sign or not number.isascii() or not number.isdigit() or len(number) > 9:
        return path, 0
    return file, int(number)


def page_of(data: bytes, page: int) -> Image.Image:
    """Open a page of a file, counted from 1; 0 opens the first one too.

    Raises:
        ImageError: The file has no such page.
    """
    return open_bytes(data, max(0, page - 1))
