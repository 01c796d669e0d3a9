"""The zip archives that torch writes: checked to be what they say before torch reads them.

torch compares no checksum, and takes a tensor's place in the file from the archive's directory.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

_CHUNK = 1 << 20
_LOCAL = b"PK\x03\x04"
_END = b"PK\x05\x06"
_END_SIZE = 22
_LOCAL_SIZE = 30


def is_archive(file: BinaryIO) -> bool:
    """Whether an open file begins as a zip archive does."""
    file.seek(0)
    return file.read(len(_LOCAL)) == _LOCAL


def data_places(file: BinaryIO) -> list[tuple[int, int]]:
    """Return where the bytes of each tensor start in an archive that was checked, and how many."""
    places = []
    for entry in zipfile.ZipFile(file).infolist():
        if "/data/" in entry.filename:
            file.seek(entry.header_offset)
            local = file.read(_LOCAL_SIZE)
            name, extra = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
            start = entry.header_offset + _LOCAL_SIZE + name + extra
            places.append((start, entry.file_size))
    return places


def check_archive(file: BinaryIO, size: int, *, checksums: bool) -> int:
    """Check the directory of an archive, and its contents where they are not known to be right.

    Args:
        file: The open file.
        size: Its bytes.
        checksums: Whether to compare each entry with its checksum, and the directory with what
            stands before each entry.

    Returns:
        The bytes of tensors in it.

    Raises:
        ValueError: It is not as torch writes it. The message is a few words.
    """
    entries = _directory(file, size)
    if checksums:
        memory = bytearray(_CHUNK)
        for entry in entries:
            _check_entry(file, entry, memoryview(memory))
    return sum(entry.file_size for entry in entries if "/data/" in entry.filename)


def _directory(file: BinaryIO, size: int) -> list[zipfile.ZipInfo]:
    """Return the entries of an archive in the order in which they stand in the file."""
    file.seek(max(size - _END_SIZE, 0))
    end = file.read(_END_SIZE)
    if not end.startswith(_END):
        raise ValueError("it is a zip archive without its end, or with something after it")
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"its directory is not one of a zip archive: {error}") from None
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("two entries in it have the same name")
    _check_kind({entry.filename.partition("/")[2] for entry in entries})
    entries.sort(key=lambda entry: entry.header_offset)
    position = 0
    for index, entry in enumerate(entries):
        if entry.header_offset < position or (index == 0 and entry.header_offset):
            raise ValueError(f"{entry.filename!r:.80} in it is not where it should be")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"{entry.filename!r:.80} in it is compressed, as torch never saves")
        if entry.file_size != entry.compress_size:
            raise ValueError(f"{entry.filename!r:.80} in it has two sizes")
        position = entry.header_offset + _LOCAL_SIZE + entry.file_size
    if position > size:
        raise ValueError("it ends before its last tensor does")
    return entries


def _check_kind(names: set[str]) -> None:
    if "constants.pkl" in names:
        raise ValueError(
            "it is a TorchScript archive, a program and more than tensors: load it with "
            "torch.jit.load where you trust it, and save its state dict"
        )
    if "data.pkl" not in names:
        raise ValueError("it is a zip archive, and none of torch.save")


def _check_entry(file: BinaryIO, entry: zipfile.ZipInfo, memory: memoryview) -> None:
    file.seek(entry.header_offset)
    local = file.read(_LOCAL_SIZE)
    name = file.read(int.from_bytes(local[26:28], "little"))
    if not local.startswith(_LOCAL) or name != entry.orig_filename.encode("utf-8"):
        raise ValueError(f"{entry.filename!r:.80} in it is not where its directory says")
    file.seek(int.from_bytes(local[28:30], "little"), 1)
    left, checksum = entry.file_size, 0
    while left:
        count = file.readinto(memory[: min(left, _CHUNK)])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it ends before its last tensor does")
        checksum = zlib.crc32(memory[:count], checksum)
        left -= count
    if checksum != entry.CRC:
        raise ValueError(f"the checksum of {entry.filename!r:.80} in it is wrong")
