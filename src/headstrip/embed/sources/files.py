"""Images that are files of their own: in folders, by patterns, or named one by one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headstrip.embed.sources.access import Access, is_url, refusal
from headstrip.embed.sources.items import Item, image_errors, refuse_size
from headstrip.embed.sources.left_out import Note, unnoted
from headstrip.embed.sources.opened import joined
from headstrip.embed.sources.trees import Tree, kind_of
from headstrip.errors import HeadstripError, ImageError


@dataclass(frozen=True)
class FilesSource:
    """The images of a tree of files."""

    tree: Tree
    is_stream = False

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": "files", "where": self.tree.where}

    def items(self) -> Iterator[Item]:
        """List the images.

        Raises:
            HeadstripError: A folder cannot be listed, or a file holds many images.
        """
        return self.items_noting(unnoted)

    def items_noting(self, note: Note) -> Iterator[Item]:
        """List the images as ``items`` does, and call ``note`` with each file left out."""
        return only(self.tree, "image", note)

    def reader(self) -> FilesReader:
        """Return what reads them."""
        return FilesReader(self.tree.root, self.tree.access)


@dataclass(frozen=True)
class FilesReader:
    """Reads files below a folder or a url, and files whose paths are absolute."""

    root: str
    access: Access

    def read(self, item: Item) -> bytes:
        """Return the bytes of a file.

        Raises:
            ImageError: It cannot be read.
        """
        with image_errors():
            place = joined(self.root, item.path)
            if is_url(place):
                return read_address(place, item, self.access)
            return read_file(place)


def only(tree: Tree, kind: str, note: Note) -> Iterator[Item]:
    """Yield the files of one kind, and have none of another be passed over in silence.

    A tree whose files all have one suffix that its user named has no other kind.

    Args:
        tree: The files.
        kind: ``image``, ``tar`` or ``parquet``.
        note: Called with the name of each file that is left out.

    Raises:
        HeadstripError: There are single images, and files that hold many.
    """
    for item in tree.files(note):
        found = kind if tree.suffix else kind_of(item.path)
        if found == kind:
            yield item
        elif found == "image" or found == "tar" or (kind != "parquet" and _has_images(tree, item)):
            raise HeadstripError(
                f"{tree.where!r} has single images and files that hold many, or files of several "
                f"kinds ({item.path!r} is one). Name one kind by a pattern that ends in its "
                "suffix, such as '**/*.jpg' or '**/*.tar'."
            )
        else:
            note(item.path)


def _has_images(tree: Tree, item: Item) -> bool:
    from headstrip.embed.sources.tables import has_images

    return has_images(joined(tree.root, item.path), tree.access)


def read_address(url: str, item: Item, access: Access) -> bytes:
    """Return the bytes behind a url.

    Args:
        url: The address.
        item: Which image it is.
        access: Which addresses may be read.

    Raises:
        ImageError: It may not be read, or is empty or too large.
        Exception: Whatever fsspec's driver raises.
    """
    if why := refusal(url, access, is_row=is_url(item.path)):
        raise ImageError(why)
    from headstrip.embed.sources.urls import read_url

    return read_url(url, item.size, access)


def read_file(path: str) -> bytes:
    """Return the bytes of a file on this machine.

    Raises:
        ImageError: It is no file of bytes, is empty, or is too large.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        # A pipe would be waited for.
        raise ImageError("it is no regular file.")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        refuse_size(size)
        content = file.read(size)
    if not content:
        raise ImageError("the file is empty.")
    return content
