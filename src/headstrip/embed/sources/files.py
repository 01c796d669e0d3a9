"""Images that are separate files: in folders, by patterns, named one by one, or in lists."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headstrip.embed.sources.access import Access, is_url, local_refusal, refusal
from headstrip.embed.sources.items import Item, Reader, Source, image_errors, size_and_time_of
from headstrip.embed.sources.left_out import Note, ignore
from headstrip.embed.sources.names import escape, joined, original_path, stored_path
from headstrip.embed.sources.trees import TreeSource
from headstrip.embed.sources.urls import read_url
from headstrip.errors import ImageError
from headstrip.images.size_limit import opened_file

_SHARE = re.compile(r"[\\/]{2}[^\\/]" if os.name == "nt" else r"\\\\[^\\]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    """Reads images that are separate files, or urls.

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
            if is_url(location):
                if why := refusal(location, self.access, is_row=is_url(item.path)):
                    raise ImageError(why)
                return read_url(location, item.size, self.access)
            if self.is_list:
                path = original_path(stored)
                found = located(self.root, path)
                if found is None:
                    raise ImageError(_why_missing(path))
                location = found
            with opened_file(location) as file:
                return file.read(os.fstat(file.fileno()).st_size)


def item_of_row(root: str, text: str) -> Item:
    """Return the item of a row of a list; a relative path starts at ``root``.

    Its name is the text of the row and nothing else, so that the results can be joined to the list.
    """
    try:
        stored = stored_path(text)
    except UnicodeEncodeError:
        # Half of a surrogate pair, which no file name contains.
        stored = escape(text.encode("utf-8", "backslashreplace"))
    # A column of text holds no surrogates.
    name = stored if _SURROGATE.search(text) else text
    container = "" if stored == name else stored
    if is_url(name) or is_url(root):
        return Item(name, 0, 0, container)
    found = located(root, text)
    return Item(name, *(size_and_time_of(found) if found is not None else (0, 0)), container)


def located(root: str, path: str) -> str | None:
    """Return the file or folder that a path names, or None if it does not exist.

    The exact name goes first. Then backslashes count as slashes, and accents may be composed (NFC)
    or decomposed (NFD).

    Args:
        root: The folder that a relative path starts at.
        path: The path.
    """
    if os.name == "nt" and _SHARE.match(path):
        # To look there would tell the other machine who is logged in.
        return None
    exact = os.path.join(root, path)
    if os.path.lexists(exact):
        return exact
    spellings = (path, path.replace("\\", "/"))
    return next(filter(None, (_in_any_form(root, each) for each in spellings)), None)


def _in_any_form(root: str, path: str) -> str | None:
    """Follow a path part by part, each unchanged, composed or decomposed."""
    reached = "/" if path.startswith("/") else root
    for part in path.split("/"):
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        there = (os.path.join(reached, form) for form in forms)
        found = next(filter(os.path.lexists, there), None)
        if found is None:
            return None
        reached = found
    return reached


def _why_missing(path: str) -> str:
    if _SHARE.match(path):
        return "it names a share of another machine. Copy the file to this one."
    if os.name != "nt" and _DRIVE.match(path):
        return (
            "it is a Windows path, and no such file exists. Write paths that are relative to the "
            "list."
        )
    if why := local_refusal(path):
        return why
    if _NOT_UTF8.search(path):
        return (
            "no file has this name, and the list is not in UTF-8. Save the list in UTF-8, such as "
            "with `iconv -f LATIN1 -t UTF-8`."
        )
    if "\0" in path:
        return "it contains a zero byte, and no file name can. Check the list."
    return "No such file or directory."
