"""The members of a tar archive, by its headers alone: nothing is extracted, and no list is kept.

The formats are POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU's. ``tarfile`` keeps every member
in memory, reads extended headers of any length, and calls itself for each one that follows another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from headstrip.errors import HeadstripError

_BLOCK = 512
_ZERO = bytes(_BLOCK)
_MOST_EXTENDED = 1 << 20
_AFTER_END = 1 << 16
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"xX", b"g", b"L", b"K", b"S"
_WITHOUT_DATA = b"123456"
_REGULAR = b"0\x007"
_OCTAL = frozenset(b"01234567")


class Member(NamedTuple):
    """What a header says of one member.

    Attributes:
        name: Its path, as it was written.
        kind: ``file``, ``folder``, ``link``, ``sparse`` or ``other``.
        size: Bytes of its data.
        offset: Where they start.
    """

    name: bytes
    kind: str
    size: int
    offset: int


class _Damaged(Exception):
    """What is wrong with an archive."""


def members(file: BinaryIO, shown: str) -> Iterator[Member]:
    """Yield the members of an archive in its order.

    Args:
        file: The archive, at any position.
        shown: Its name, for errors.

    Raises:
        HeadstripError: It is no whole archive.
    """
    try:
        yield from _Walk(file).members()
    except _Damaged as error:
        raise HeadstripError(
            f"The archive {shown!r} cannot be read: {error}. Fetch or make it again."
        ) from error


def is_header(block: bytes) -> bool:
    """Whether 512 bytes have the sum that a header says of itself."""
    said = block[148:156].split(b"\0")[0].strip(b" ")
    if not said or not _OCTAL.issuperset(said):
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    surplus = sum(rest) - int(said, 8)
    # Some archivers added bytes up as if they were signed.
    return not surplus or surplus == 256 * sum(byte > 127 for byte in rest)


class _Walk:
    """Where a walk through an archive is, and what headers said of members to come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, file.seek(0, 2)
        self._at = 0
        self._global: dict[bytes, bytes] = {}
        self._next: dict[bytes, bytes] | None = None

    def members(self) -> Iterator[Member]:
        while (header := self._block()) is not None:
            if header == _ZERO:
                self._refuse_more()
                return
            start = self._at - _BLOCK
            _check_sum(header, start)
            kind = header[156:157]
            size = _number(header[124:136], start)
            if kind in _PAX or kind in _PAX_GLOBAL or kind in _LONG_NAME or kind in _LONG_LINK:
                self._extend(kind, self._payload(size))
            else:
                yield self._member(header, kind, size, start)
        raise _Damaged("it has no end mark, so it was cut, or is still being written")

    def _member(self, header: bytes, kind: bytes, size: int, start: int) -> Member:
        said = {**self._global, **(self._next or {})}
        self._next = None
        name = said.get(b"GNU.sparse.name") or said.get(b"path") or _name(header)
        if b"size" in said:
            size = _decimal(said[b"size"], start)
        if kind in _SPARSE:
            self._skip_map(header)
        is_sparse = kind in _SPARSE or any(key.startswith(b"GNU.sparse") for key in said)
        found = Member(name, _kind(kind, name, is_sparse), size, self._at)
        if kind not in _WITHOUT_DATA:
            self._skip(size)
        return found

    def _block(self) -> bytes | None:
        self._file.seek(self._at)
        block = self._file.read(_BLOCK)
        if not block and self._at >= self._end and self._next is None:
            return None
        if len(block) < _BLOCK:
            raise _Damaged(f"it ends within a header, at byte {self._end}")
        self._at += _BLOCK
        return block

    def _payload(self, size: int) -> bytes:
        """Return the data of a header that extends the next one."""
        if size > _MOST_EXTENDED:
            raise _Damaged(
                f"a header at byte {self._at} has {size} bytes, and {_MOST_EXTENDED} are allowed"
            )
        payload = self._file.read(size)
        self._skip(size)
        return payload

    def _skip(self, size: int) -> None:
        if self._at + size > self._end:
            raise _Damaged(
                f"it ends at byte {self._end}, within a member that starts at {self._at}"
            )
        self._at += -(-size // _BLOCK) * _BLOCK

    def _extend(self, kind: bytes, payload: bytes) -> None:
        if kind in _PAX_GLOBAL:
            self._global.update(_records(payload, self._at))
            return
        self._next = self._next or {}
        if kind in _LONG_NAME:
            self._next[b"path"] = payload.rstrip(b"\0")
        elif kind in _PAX:
            self._next.update(_records(payload, self._at))

    def _skip_map(self, header: bytes) -> None:
        """Pass the blocks that say where the holes of a sparse member are."""
        more = header[482]
        while more:
            block = self._block()
            if block is None:
                raise _Damaged(f"it ends within a header, at byte {self._end}")
            more = block[504]

    def _refuse_more(self) -> None:
        """Refuse archives that were put one behind the other: readers stop at the first's end."""
        if self._file.read(_AFTER_END).strip(b"\0"):
            raise _Damaged(
                f"it goes on after its end, at byte {self._at}: several archives were put "
                "together, as `tar -A` would do it properly"
            )


def _check_sum(header: bytes, start: int) -> None:
    if not is_header(header):
        raise _Damaged(f"what is at byte {start} is no header")


def _number(field: bytes, start: int) -> int:
    """Read a number in octal digits, or in GNU's base 256."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise _Damaged(f"the header at byte {start} has a negative size")
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip(b" ")
    if not _OCTAL.issuperset(digits):
        raise _Damaged(f"the header at byte {start} has no size")
    return int(digits or b"0", 8)


def _decimal(digits: bytes, start: int) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise _Damaged(f"the header at byte {start} has no size")
    return int(digits)


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _kind(kind: bytes, name: bytes, is_sparse: bool) -> str:
    if is_sparse:
        return "sparse"
    if kind in _REGULAR:
        # Before there were kinds, a folder was a file whose name ends in a slash.
        return "folder" if name.endswith(b"/") else "file"
    return {b"1": "link", b"2": "link", b"5": "folder"}.get(kind, "other")


def _records(payload: bytes, start: int) -> dict[bytes, bytes]:
    """Read the records of a pax header, ``LENGTH KEY=VALUE``, that say where a member is."""
    found, at = {}, 0
    while at < len(payload) and payload[at]:
        space = payload.find(b" ", at, at + 10)
        digits = payload[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        if not space < end <= len(payload) or payload[end - 1] != ord("\n"):
            raise _Damaged(f"the header before byte {start} is damaged")
        key, _, value = payload[space + 1 : end - 1].partition(b"=")
        if key in {b"path", b"size"} or key.startswith(b"GNU.sparse."):
            found[key] = value
        at = end
    return found
