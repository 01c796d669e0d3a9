"""Images that are files of their own: in folders, by patterns, or named one by one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headstrip.embed.sources.items import Item, image_errors, is_url, refuse_size
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
        return only(self.tree, "image")

    def reader(self) -> FilesReader:
        """Return what reads them."""
        return FilesReader(self.tree.root)


@dataclass(frozen=True)
class FilesReader:
    """Reads files below a folder or a url, and files whose paths are absolute."""

    root: str

    def read(self, item: Item) -> bytes:
        """Return the bytes of a file.

        Raises:
            ImageError: It cannot be read.
        """
        with image_errors():
            place = joined(self.root, item.path)
            if is_url(place):
                from headstrip.embed.sources.urls import read_url

                return read_url(place, item.size)
            return _read_file(place)


def only(tree: Tree, kind: str) -> Iterator[Item]:
    """Yield the files of one kind, and have none of another be passed over in silence.

    A tree whose files all have one suffix that its user named has no other kind.

    Raises:
        HeadstripError: There are single images, and files that hold many.
    """
    for item in tree.files():
        found = kind if tree.suffix else kind_of(item.path)
        if found == kind:
            yield item
        elif found == "image" or found == "tar" or (kind != "parquet" and _has_images(tree, item)):
            raise HeadstripError(
                f"{tree.where!r} has single images and files that hold many, or files of several "
                f"kinds ({item.path!r} is one). Name one kind by a pattern that ends in its "
                "suffix, such as '**/*.jpg' or '**/*.tar'."
            )


def _has_images(tree: Tree, item: Item) -> bool:
    from headstrip.embed.sources.tables import has_images

    return has_images(joined(tree.root, item.path))


def _read_file(path: str) -> bytes:
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
