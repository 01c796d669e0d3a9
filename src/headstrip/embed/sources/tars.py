"""Images in tar archives, as WebDataset writes them: read where they are, never extracted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from headstrip.embed.files import escape, is_image
from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.files import only
from headstrip.embed.sources.items import (
    Item,
    failure,
    image_errors,
    in_column,
    refuse_size,
    stamp_in,
)
from headstrip.embed.sources.left_out import Note, unnoted
from headstrip.embed.sources.opened import (
    Shelf,
    joined,
    modified,
    open_place,
    refuse_changed,
    unreadable,
)
from headstrip.embed.sources.tar import Member, is_header, members
from headstrip.embed.sources.trees import Tree
from headstrip.errors import HeadstripError, ImageError

_UNPACKERS = {"gz": "gunzip", "tgz": "gunzip", "bz2": "bunzip2", "tbz2": "bunzip2",
              "xz": "unxz", "txz": "unxz", "zst": "unzstd"}  # fmt: skip
_MAGIC = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"(\xb5/\xfd": "unzstd"}
_LEADS_OUT, _LINK, _SPARSE, _OTHER = -1, -2, -3, -4
_REASONS = {
    _LEADS_OUT: "its name leads out of the archive: it is absolute, or has '..' in it.",
    _LINK: "it is a link, and links in an archive are not followed.",
    _SPARSE: "it is stored with holes (a sparse member), which is not read.",
    _OTHER: "it is no regular file.",
}
_AT_ONCE = 16


@dataclass(frozen=True)
class TarSource:
    """The images of the tar archives of a tree, each named by its archive and its name in it."""

    tree: Tree
    is_stream = False

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": "tar", "where": self.tree.where}

    def items(self) -> Iterator[Item]:
        """List the images, archive by archive.

        Raises:
            HeadstripError: An archive is damaged or compressed.
        """
        return self.items_noting(unnoted)

    def items_noting(self, note: Note) -> Iterator[Item]:
        """List the images as ``items`` does, and call ``note`` with each file left out."""
        for archive in only(self.tree, "tar", note):
            place = joined(self.tree.root, archive.path)
            yield from _images(place, archive, self.tree.access, note)

    def reader(self) -> TarReader:
        """Return what reads them."""
        return TarReader(self.tree.root, self.tree.access)


@dataclass(frozen=True)
class TarReader:
    """Reads members of archives below a folder or a url, at the places that their items have."""

    root: str
    access: Access
    _shelf: Shelf[BinaryIO] = field(
        default_factory=lambda: Shelf(_open_file, _AT_ONCE), repr=False, compare=False
    )

    def read(self, item: Item) -> bytes:
        """Return the data of a member.

        Raises:
            ImageError: It is none that is read, or the archive was changed.
        """
        with image_errors():
            if item.offset < 0:
                raise ImageError(_REASONS[item.offset])
            refuse_size(item.size)
            content = self._content(joined(self.root, item.place), item)
        if not item.size:
            raise ImageError("the file is empty.")
        if len(content) < item.size:
            raise ImageError("the archive ends within it.")
        if len(content) > item.size:
            raise ImageError(
                "the server sends more than the part that was asked for. Download the archive, and "
                "name the file."
            )
        return content

    def _content(self, place: str, item: Item) -> bytes:
        if is_url(place):
            from headstrip.embed.sources.urls import filesystem

            files, path = filesystem(place, self.access)
            return bytes(files.cat_file(path, start=item.offset, end=item.offset + item.size))
        with self._shelf.taken(place) as file:
            refuse_changed(item.modified, stamp_in(os.fstat(file.fileno()))[1])
            file.seek(item.offset)
            return file.read(item.size)


def _images(place: str, archive: Item, access: Access, note: Note) -> Iterator[Item]:
    try:
        with open_place(place, access) as file:
            _refuse_compressed(file, archive.path)
            written = modified(place, access)
            for member in members(file, archive.path):
                if member.kind == "folder":
                    continue
                if not is_image(text := member.name.decode("latin-1")):
                    note(text)
                    continue
                name, offset = _named(member)
                path = f"{archive.path}/{name}"
                yield Item(path, in_column(member.size), written, archive.path, offset)
    except HeadstripError:
        raise
    except Exception as error:
        # What a driver of remote files raises is its own.
        raise unreadable(archive.path, failure(error)) from error


def _open_file(place: str) -> BinaryIO:
    return open(place, "rb")


def _named(member: Member) -> tuple[str, int]:
    """Return what a member is called in a table, and where it is or why it is not read."""
    parts = [part for part in member.name.split(b"/") if part not in {b"", b"."}]
    is_absolute = member.name.startswith(b"/")
    name = (r"\x2f" if is_absolute else "") + escape(b"/".join(parts))
    if is_absolute or b".." in parts:
        return name, _LEADS_OUT
    reasons = {"file": member.offset, "link": _LINK, "sparse": _SPARSE}
    return name, reasons.get(member.kind, _OTHER)


def _refuse_compressed(file: BinaryIO, name: str) -> None:
    file.seek(0)
    start = file.read(512)
    if is_header(start):
        # A member's name may begin like a compressed file.
        return
    unpacker = _UNPACKERS.get(name.lower().rpartition(".")[2])
    for magic, program in _MAGIC.items():
        if start.startswith(magic):
            unpacker = program
    if unpacker:
        raise HeadstripError(
            f"The archive {name!r} is compressed, so nothing in the middle of it can be read. "
            f"Unpack it with {unpacker}, and name the .tar; images are compressed as they are."
        )
