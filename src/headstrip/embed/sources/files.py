"""Images that are files of their own: in folders, by patterns, named one by one, or in lists."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from headstrip.embed.sources.access import Access, is_url, refusal
from headstrip.embed.sources.items import Item, Reader, Source, image_errors, joined
from headstrip.embed.sources.left_out import Note, ignore
from headstrip.embed.sources.rows import file_of_row
from headstrip.embed.sources.trees import Tree, kind_of
from headstrip.embed.sources.urls import read_url
from headstrip.errors import HeadstripError, ImageError
from headstrip.images.size_limit import refuse_size


@dataclass(frozen=True)
class TreeSource(ABC):
    """What the sources have in common whose files are below a folder or a url."""

    tree: Tree
    is_stream = False
    file_kind = "image"

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": self.file_kind, "where": self.tree.where}

    @abstractmethod
    def items(self, note: Note = ignore) -> Iterator[Item]:
        """List the images, and call ``note`` with each file left out.

        Raises:
            HeadstripError: A folder or file cannot be read, or there are files of several kinds.
        """

    def files(self, note: Note) -> Iterator[Item]:
        """List the files of the source's kind, and refuse files of another kind that has images.

        Where the user named a suffix, all files that have it count as of that kind.
        """
        for item in self.tree.files(note):
            kind = self.file_kind if self.tree.suffix else kind_of(item.path)
            if kind == self.file_kind:
                yield item
            elif kind in {"image", "tar"} or (kind == "parquet" and self._has_images(item)):
                raise HeadstripError(
                    f"{self.tree.where!r} mixes single images and files that hold many, or has "
                    f"files of several kinds ({item.path!r} is one of them). Choose one kind with "
                    "a pattern that ends in its suffix, such as '**/*.jpg' or '**/*.tar'."
                )
            else:
                note(item.path)

    def _has_images(self, item: Item) -> bool:
        from headstrip.embed.sources.tables import has_images

        return has_images(joined(self.tree.root, item.path), self.tree.access)


class FilesSource(TreeSource):
    """The images of a tree of files."""

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {**super().describe(), "kind": "files"}

    def items(self, note: Note = ignore) -> Iterator[Item]:
        """List the images, and call ``note`` with each file left out."""
        return self.files(note)

    def reader(self) -> Reader:
        """Return the reader of the items."""
        return FileReader(self.tree.root, self.tree.access)


def items_of(source: Source, note: Note) -> Iterator[Item]:
    """List the images of a source, and call ``note`` with each file that it leaves out."""
    return source.items(note) if isinstance(source, TreeSource) else source.items()


@dataclass(frozen=True)
class FileReader:
    """Reads images that are files of their own, or urls.

    Attributes:
        root: The folder or url where relative paths start.
        access: Which urls may be read.
        is_list: Whether the items are rows of a list, whose spelling may differ from the file's.
    """

    root: str
    access: Access
    is_list: bool = False

    def read(self, item: Item) -> bytes:
        """Return the bytes of a file.

        Raises:
            ImageError: It cannot be read, or may not be.
        """
        with image_errors():
            # The text of some rows cannot be read back, and is kept in another form as well.
            stored = item.container or item.path
            location = joined(self.root, stored)
            if not is_url(location):
                return read_file(file_of_row(self.root, stored) if self.is_list else location)
            if why := refusal(location, self.access, is_row=is_url(item.path)):
                raise ImageError(why)
            return read_url(location, item.size, self.access)


@contextmanager
def opened_file(path: str) -> Iterator[BinaryIO]:
    """Open a file of this machine; never a pipe, which would be waited for.

    Raises:
        ImageError: It is not a regular file.
        OSError: It cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError("it is no regular file.")
    with open(path, "rb") as file:
        yield file


def read_file(path: str) -> bytes:
    """Return the bytes of an image file on this machine.

    Raises:
        ImageError: It is not a regular file, is empty, or is too large.
        OSError: It cannot be read.
    """
    with opened_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        refuse_size(size)
        content = file.read(size)
    if not content:
        raise ImageError("the file is empty.")
    return content
