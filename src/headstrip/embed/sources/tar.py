"""Images in tar archives, as WebDataset writes them: read where they are, never extracted.

``tarfile`` parses each header, but headstrip itself walks from one header to the next. ``TarFile``
takes a damaged header for the end of the archive, calls itself for each extended header that
follows another, reads extended headers of any length (before Python 3.11.10 in time that grows with
the square of it), and keeps the maps of sparse members in memory.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.containers import ContainerReader
from headstrip.embed.sources.items import (
    Item,
    Reader,
    clip_to_int64,
    listing_errors,
    size_and_time,
)
from headstrip.embed.sources.left_out import Note, ignore
from headstrip.embed.sources.names import escape, is_image, joined
from headstrip.embed.sources.trees import TreeSource
from headstrip.embed.sources.urls import filesystem, open_location
from headstrip.errors import HeadstripError, ImageError
from headstrip.images.size_limit import refuse_size

_BLOCK = tarfile.BLOCKSIZE
_MOST_EXTENDED = 1 << 20
_AFTER_END = 1 << 16
_MOST_OPEN = 16
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
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
    -4: "it is not a regular file.",
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
            location = joined(self.tree.root, archive.path)
            with (
                listing_errors(archive.path),
                open_location(location, self.tree.access) as file,
            ):
                yield from _images(file, archive, note)

    def reader(self) -> Reader:
        """Return the reader of the items."""
        opening = partial(_Archive, access=self.tree.access)
        return ContainerReader(self.tree.root, opening, _MOST_OPEN)


class _Archive:
    """An archive whose members are read by their offsets. Of a url, only these bytes are read."""

    def __init__(self, location: str, access: Access) -> None:
        self._file: Any = None
        if is_url(location):
            self._files, self._path = filesystem(location, access)
        else:
            self._file = open_location(location, access)

    def modified(self) -> int:
        return size_and_time(os.fstat(self._file.fileno()))[1] if self._file else 0

    def read(self, item: Item) -> bytes:
        start, size = item.offset, item.size
        if start < 0:
            raise ImageError(_REASONS[start])
        refuse_size(size)
        if not size:
            raise ImageError("the file is empty.")
        if self._file:
            self._file.seek(start)
            content = self._file.read(size)
        else:
            content = self._files.cat_file(self._path, start=start, end=start + size)
        if len(content) < size:
            raise ImageError("the archive ends within it.")
        if len(content) > size:
            raise ImageError(
                "the server sends more than the part that headstrip asked for. Download the "
                "archive, and pass the file."
            )
        return bytes(content)

    def close(self) -> None:
        if self._file:
            self._file.close()


def _images(file: BinaryIO, archive: Item, note: Note) -> Iterator[Item]:
    _refuse_compressed(file, archive.path)
    for stored, size, offset in _Headers(file, archive.path).members():
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


class _Headers:
    """The headers of an archive, from the first to the end mark. Only one is in memory."""

    def __init__(self, file: BinaryIO, shown: str) -> None:
        self._file, self._shown = file, shown
        self._end, self._at = file.seek(0, os.SEEK_END), 0

    def members(self) -> Iterator[tuple[bytes, int, int]]:
        """Walk from header to header.

        Yields:
            The name, bytes and offset of each member but folders. Where headstrip does not read
            the member, a key of ``_REASONS`` stands for the offset.

        Raises:
            HeadstripError: The archive is damaged; the message says how and where.
        """
        for_all: dict[bytes, bytes] = {}
        for_next: dict[bytes, bytes] | None = None
        while True:
            if self._at >= self._end and for_next is None:
                raise self._damaged(
                    "it has no end mark, so it was cut off, or is still being written"
                )
            block = self._block()
            if not any(block):
                self._refuse_more()
                return
            header = self._header(block)
            if header.type == tarfile.XGLTYPE:
                for_all.update(self._pax_records(header.size))
            elif header.type in _PAX:
                for_next = {**(for_next or {}), **self._pax_records(header.size)}
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                name = self._extension(header.size).rstrip(b"\0")
                for_next = {**(for_next or {}), b"path": name}
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                self._extension(header.size)
                for_next = for_next or {}
            else:
                extended, for_next = {**for_all, **(for_next or {})}, None
                name = extended.get(b"GNU.sparse.name") or extended.get(b"path") or _name(block)
                size = int(extended.get(b"size", header.size))
                if header.type == tarfile.GNUTYPE_SPARSE:
                    self._skip_sparse_map(block)
                # Before there were types, a folder was a file whose name ends in a slash.
                if not (header.isdir() or (header.isreg() and name.endswith(b"/"))):
                    yield name, size, _reason_not_to_read(header, extended) or self._at
                if header.type not in _WITHOUT_DATA:
                    self._skip(size)

    def _block(self) -> bytes:
        self._file.seek(self._at)
        block = self._file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise self._damaged(f"it ends within a header, at byte {self._end}")
        self._at += _BLOCK
        return block

    def _header(self, block: bytes) -> tarfile.TarInfo:
        at = self._at - _BLOCK
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._damaged(f"there is no valid header at byte {at}") from error
        if header.size < 0:
            raise self._damaged(f"the header at byte {at} states a negative size")
        return header

    def _extension(self, size: int) -> bytes:
        """Return the data of a header that extends the next one."""
        if size > _MOST_EXTENDED:
            raise self._damaged(
                f"an extended header at byte {self._at} has {size} bytes, and {_MOST_EXTENDED} are "
                "allowed"
            )
        payload = self._file.read(size)
        self._skip(size)
        return payload

    def _skip(self, size: int) -> None:
        """Go to the header after a member's data."""
        if self._at + size > self._end:
            raise self._damaged(
                f"it ends at byte {self._end}, within a member that starts at byte {self._at}"
            )
        self._at += -(-size // _BLOCK) * _BLOCK

    def _skip_sparse_map(self, block: bytes) -> None:
        """Go past the blocks that say where the holes of a sparse member are."""
        has_more = block[482]
        while has_more:
            has_more = self._block()[504]

    def _pax_records(self, size: int) -> dict[bytes, bytes]:
        """Read the records of a pax header, ``LENGTH KEY=VALUE``, that say where a member is."""
        payload, before = self._extension(size), f"the extended header before byte {self._at}"
        found, start = {}, 0
        while start < len(payload) and payload[start]:
            space = payload.find(b" ", start, start + 10)
            digits = payload[start:space] if space > 0 else b""
            stop = start + int(digits) if digits.isdigit() else 0
            if not space < stop <= len(payload) or payload[stop - 1] != ord("\n"):
                raise self._damaged(f"{before} is damaged")
            key, _, value = payload[space + 1 : stop - 1].partition(b"=")
            if key == b"size" and not (value.isdigit() and len(value) <= 20):
                raise self._damaged(f"{before} states no valid size")
            if key in {b"path", b"size"} or key.startswith(b"GNU.sparse."):
                found[key] = value
            start = stop
        return found

    def _refuse_more(self) -> None:
        """Refuse archives put one after another: readers stop at the end of the first."""
        if self._file.read(_AFTER_END).strip(b"\0"):
            raise self._damaged(
                f"it continues after its end, at byte {self._at}, so several archives were put one "
                "after another, which `tar -A` would do correctly"
            )

    def _damaged(self, why: str) -> HeadstripError:
        return HeadstripError(
            f"The archive {self._shown!r} cannot be read: {why}. Download or create it again."
        )


def _reason_not_to_read(header: tarfile.TarInfo, extended: dict[bytes, bytes]) -> int:
    """Return a key of ``_REASONS``, or 0."""
    is_sparse = any(key.startswith(b"GNU.sparse.") for key in extended)
    if is_sparse or header.type == tarfile.GNUTYPE_SPARSE:
        return _SPARSE
    if header.islnk() or header.issym():
        return _LINK
    return 0 if header.isreg() else _OTHER


def _name(block: bytes) -> bytes:
    # GNU's own format has times where ustar has a prefix.
    prefix = block[345:500] if block[257:263] == tarfile.POSIX_MAGIC[:6] else b""
    parts = (prefix.split(b"\0")[0], block[:100].split(b"\0")[0])
    return b"/".join(part for part in parts if part)


def _refuse_compressed(file: BinaryIO, name: str) -> None:
    start = file.read(_BLOCK)
    try:
        # The name of the first member may start like a compressed file.
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        by_start = [p for p, (magic, _) in _UNPACKERS.items() if start.startswith(magic)]
        by_name = [p for p, (_, ends) in _UNPACKERS.items() if name.lower().endswith(ends)]
        for program in by_start + by_name:
            raise HeadstripError(
                f"The archive {name!r} is compressed, so headstrip cannot jump to a member. "
                f"Unpack it with {program}, and pass the .tar; the images in it are compressed "
                "already."
            ) from None
