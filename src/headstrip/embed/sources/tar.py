"""Images in tar archives, as WebDataset writes them: read where they are, never extracted.

``tarfile`` reads each header; the walk from one header to the next is our own. ``TarFile`` ends an
archive without an error at a damaged header, calls itself for each extended header that follows
another, reads extended headers of any length (before Python 3.11.10 in time that grows with the
square of it), and reads the maps of sparse members.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from headstrip.embed.files import escape, is_image
from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.files import TreeSource
from headstrip.embed.sources.items import (
    Item,
    Reader,
    clip_to_int64,
    image_errors,
    joined,
    reason_of,
    refuse_changed,
    size_and_time,
    unreadable,
)
from headstrip.embed.sources.left_out import Note, ignore
from headstrip.embed.sources.open_files import OpenFiles, open_location
from headstrip.embed.sources.urls import filesystem
from headstrip.errors import HeadstripError, ImageError
from headstrip.images.size_limit import refuse_size

_BLOCK = tarfile.BLOCKSIZE
_MOST_EXTENDED = 1 << 20
_AFTER_END = 1 << 16
_MOST_OPEN = 16
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDED = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_WITHOUT_DATA = b"123456"
_UNPACKERS = {
    "gunzip": (b"\x1f\x8b", (".gz", ".tgz")),
    "bunzip2": (b"BZh", (".bz2", ".tbz2")),
    "unxz": (b"\xfd7zXZ", (".xz", ".txz")),
    "unzstd": (b"(\xb5/\xfd", (".zst",)),
}
"""How a compressed file starts, and how its name ends, by the program that unpacks it."""

_REASONS = {
    -1: "its name leads out of the archive: it is absolute, or has '..' in it.",
    -2: "it is a link, and headstrip does not follow links in an archive.",
    -3: "it is a sparse member (stored with holes), and headstrip does not read those.",
    -4: "it is no regular file.",
}
"""Why a member is not read, by the number that its item has instead of an offset."""
_LEADS_OUT, _LINK, _SPARSE, _OTHER = _REASONS


class TarSource(TreeSource):
    """The images of the tar archives of a tree, each named by its archive and its name in it."""

    file_kind = "tar"

    def items(self, note: Note = ignore) -> Iterator[Item]:
        """List the images, and call ``note`` with each file left out.

        Raises:
            HeadstripError: An archive is damaged or compressed.
        """
        for archive in self.files(note):
            try:
                location = joined(self.tree.root, archive.path)
                with open_location(location, self.tree.access) as file:
                    _refuse_compressed(file, archive.path)
                    yield from _images(file, archive, note)
            except _Damaged as error:
                raise HeadstripError(
                    f"The archive {archive.path!r} cannot be read: {error}. Download or create it "
                    "again."
                ) from error
            except HeadstripError:
                raise
            except Exception as error:
                # The drivers of remote files raise errors of their own classes.
                raise unreadable(archive.path, reason_of(error)) from error

    def reader(self) -> Reader:
        """Return the reader of the items."""
        return TarReader(self.tree.root, self.tree.access)


@dataclass(frozen=True)
class TarReader:
    """Reads members of archives below a folder or a url, at the offsets of their items."""

    root: str
    access: Access
    _files: OpenFiles = field(
        default_factory=lambda: OpenFiles(_open_file, _MOST_OPEN), repr=False, compare=False
    )

    def read(self, item: Item) -> bytes:
        """Return the data of a member.

        Raises:
            ImageError: headstrip does not read such a member, or the archive was changed.
        """
        with image_errors():
            if item.offset < 0:
                raise ImageError(_REASONS[item.offset])
            refuse_size(item.size)
            content = self._content(joined(self.root, item.container), item)
        if not item.size:
            raise ImageError("the file is empty.")
        if len(content) < item.size:
            raise ImageError("the archive ends within it.")
        if len(content) > item.size:
            raise ImageError(
                "the server sends more than the part that headstrip asked for. Download the "
                "archive, and name the file."
            )
        return content

    def _content(self, location: str, item: Item) -> bytes:
        if is_url(location):
            files, path = filesystem(location, self.access)
            return bytes(files.cat_file(path, start=item.offset, end=item.offset + item.size))
        with self._files.using(location) as file:
            refuse_changed(item.modified, size_and_time(os.fstat(file.fileno()))[1])
            file.seek(item.offset)
            content: bytes = file.read(item.size)
            return content


class _Damaged(Exception):
    """An archive is damaged; the message says how and where."""


def _open_file(location: str) -> BinaryIO:
    return open(location, "rb")


def _images(file: BinaryIO, archive: Item, note: Note) -> Iterator[Item]:
    for stored, size, offset in _members(file):
        if not is_image(text := stored.decode("latin-1")):
            note(text)
            continue
        parts = [part for part in stored.split(b"/") if part not in {b"", b"."}]
        is_absolute = stored.startswith(b"/")
        name = (r"\x2f" if is_absolute else "") + escape(b"/".join(parts))
        if is_absolute or b".." in parts:
            offset = _LEADS_OUT
        path = f"{archive.path}/{name}"
        yield Item(path, clip_to_int64(size), archive.modified, archive.path, offset)


def _members(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Walk from header to header, and forget each member before the next one.

    Yields:
        The name, bytes and offset of each member but folders. Where headstrip does not read the
        member, a key of ``_REASONS`` stands for the offset.
    """
    end, at = file.seek(0, os.SEEK_END), 0
    for_all: dict[bytes, bytes] = {}
    for_next: dict[bytes, bytes] | None = None
    while True:
        if at >= end and for_next is None:
            raise _Damaged("it has no end mark, so it was cut off, or is still being written")
        block = _block(file, at, end)
        at += _BLOCK
        if not any(block):
            _refuse_more(file, at)
            return
        header = _header(block, at - _BLOCK)
        if header.type in _EXTENDED:
            payload = _payload(file, at, header.size)
            at = _after_data(at, header.size, end)
            if header.type == tarfile.XGLTYPE:
                for_all.update(_pax_records(payload, at))
                continue
            for_next = for_next or {}
            if header.type in _PAX:
                for_next.update(_pax_records(payload, at))
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                for_next[b"path"] = payload.rstrip(b"\0")
            continue
        extended, for_next = {**for_all, **(for_next or {})}, None
        name = extended.get(b"GNU.sparse.name") or extended.get(b"path") or _name(block)
        size = int(extended.get(b"size", header.size))
        if header.type == tarfile.GNUTYPE_SPARSE:
            at = _after_sparse_map(file, block, at, end)
        # Before there were types, a folder was a file whose name ends in a slash.
        if not (header.isdir() or (header.isreg() and name.endswith(b"/"))):
            yield name, size, _reason_not_to_read(header, extended) or at
        if header.type not in _WITHOUT_DATA:
            at = _after_data(at, size, end)


def _reason_not_to_read(header: tarfile.TarInfo, extended: dict[bytes, bytes]) -> int:
    """Return a key of ``_REASONS``, or 0."""
    is_sparse = any(key.startswith(b"GNU.sparse.") for key in extended)
    if is_sparse or header.type == tarfile.GNUTYPE_SPARSE:
        return _SPARSE
    if header.islnk() or header.issym():
        return _LINK
    return 0 if header.isreg() else _OTHER


def _block(file: BinaryIO, at: int, end: int) -> bytes:
    file.seek(at)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise _Damaged(f"it ends within a header, at byte {end}")
    return block


def _header(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _Damaged(f"there is no valid header at byte {at}") from error
    if header.size < 0:
        raise _Damaged(f"the header at byte {at} states a negative size")
    return header


def _payload(file: BinaryIO, at: int, size: int) -> bytes:
    """Return the data of a header that extends the next one."""
    if size > _MOST_EXTENDED:
        raise _Damaged(
            f"an extended header at byte {at} has {size} bytes, and {_MOST_EXTENDED} are allowed"
        )
    return file.read(size)


def _after_data(at: int, size: int, end: int) -> int:
    """Return where the header after a member's data is."""
    if at + size > end:
        raise _Damaged(f"it ends at byte {end}, within a member that starts at byte {at}")
    return at + -(-size // _BLOCK) * _BLOCK


def _after_sparse_map(file: BinaryIO, block: bytes, at: int, end: int) -> int:
    """Return the end of the blocks that say where the holes of a sparse member are."""
    has_more = block[482]
    while has_more:
        has_more = _block(file, at, end)[504]
        at += _BLOCK
    return at


def _name(block: bytes) -> bytes:
    # GNU's own format has times where ustar has a prefix.
    prefix = block[345:500] if block[257:263] == tarfile.POSIX_MAGIC[:6] else b""
    parts = (prefix.split(b"\0")[0], block[:100].split(b"\0")[0])
    return b"/".join(part for part in parts if part)


def _pax_records(payload: bytes, at: int) -> dict[bytes, bytes]:
    """Read the records of a pax header, ``LENGTH KEY=VALUE``, that say where a member is."""
    found, start = {}, 0
    while start < len(payload) and payload[start]:
        space = payload.find(b" ", start, start + 10)
        digits = payload[start:space] if space > 0 else b""
        stop = start + int(digits) if digits.isdigit() else 0
        if not space < stop <= len(payload) or payload[stop - 1] != ord("\n"):
            raise _Damaged(f"the extended header before byte {at} is damaged")
        key, _, value = payload[space + 1 : stop - 1].partition(b"=")
        if key == b"size" and not (value.isdigit() and len(value) <= 20):
            raise _Damaged(f"the extended header before byte {at} states no valid size")
        if key in {b"path", b"size"} or key.startswith(b"GNU.sparse."):
            found[key] = value
        start = stop
    return found


def _refuse_more(file: BinaryIO, at: int) -> None:
    """Refuse archives that were put one after another: readers stop at the end of the first."""
    if file.read(_AFTER_END).strip(b"\0"):
        raise _Damaged(
            f"it goes on after its end, at byte {at}, so several archives were put one after "
            "another, which `tar -A` would do correctly"
        )


def _refuse_compressed(file: BinaryIO, name: str) -> None:
    file.seek(0)
    start = file.read(_BLOCK)
    try:
        # The name of the first member may start like a compressed file.
        _header(start, 0)
    except _Damaged:
        by_start = [p for p, (magic, _) in _UNPACKERS.items() if start.startswith(magic)]
        by_name = [p for p, (_, ends) in _UNPACKERS.items() if name.lower().endswith(ends)]
        for program in by_start + by_name:
            raise HeadstripError(
                f"The archive {name!r} is compressed, so headstrip cannot jump to a member. "
                f"Unpack it with {program}, and name the .tar; the images in it are compressed "
                "already."
            ) from None
