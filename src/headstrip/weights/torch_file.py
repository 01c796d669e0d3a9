"""Read files of ``torch.save`` without running code in them.

torch reads them with ``weights_only=True``. `mapped_archive` reads some again, with fewer classes.

A file may contain tensors, plain values and an ``argparse.Namespace``, which has the settings of a
training program. A Namespace has only attributes, so reading one runs no code.

headstrip checks a zip archive before torch reads it. torch compares no checksums, and it believes
the archive's directory about the position of each tensor.
"""

from __future__ import annotations

import argparse
import mmap
import pickle
import pickletools
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch.serialization import get_default_mmap_options

from headstrip.weights.legacy import check_legacy
from headstrip.weights.mapped_archive import LOCAL_SIZE, map_archive
from headstrip.weights.mapping import descriptor_path
from headstrip.weights.problems import too_large

_NAMESPACE = "argparse.Namespace"
_lock = threading.Lock()
"""A thread has this lock while torch accepts a Namespace, which it does in all threads."""

_CHUNK = 1 << 20
_LOCAL = b"PK\x03\x04"
_END = b"PK\x05\x06"
_END_SIZE = 22


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """The options of parsing an open weights file.

    Attributes:
        mapped: Whether to map the tensors that can be mapped.
        checked: Whether the bytes have a known sha256. Otherwise headstrip compares the checksums
            in the file.
        read_before: Whether torch accepted the same bytes before.
        limit: The largest allowed number of bytes of tensors, or None for no limit.
    """

    mapped: bool = False
    checked: bool = False
    read_before: bool = False
    limit: int | None = None


def read_torch(path: Path, file: BinaryIO, size: int, options: ParseOptions) -> tuple[object, int]:
    """Read an open file.

    Args:
        path: The path of the file, for messages.
        file: The open file.
        size: The size of the file in bytes.
        options: How to read it.

    Returns:
        The content, and the number of mapped bytes. The format before torch 1.6 cannot be mapped.

    Raises:
        WeightsError: The tensors have more bytes than ``options.limit``.
        Exception: The errors of the parsers for a file that is damaged or contains code.
    """
    is_archive = _is_archive(file)
    archive = _checked_archive(file, size, checksums=not options.checked) if is_archive else None
    total = check_legacy(file, size) if archive is None else _bytes_of_tensors(archive)
    if options.limit is not None and total > options.limit:
        raise too_large(path, total, options.limit)
    if options.mapped and options.read_before and archive is not None:
        content = map_archive(file, archive)
        if content is not None:
            return content, total
    file.seek(0)
    # A program can set torch to map shared. Then writing to a tensor would change the file.
    is_private = get_default_mmap_options() == mmap.MAP_PRIVATE
    mapped = options.mapped and archive is not None and is_private
    source = descriptor_path(file) if mapped else None

    def load() -> object:
        return torch.load(
            file if source is None else source,
            map_location="cpu",
            weights_only=True,
            mmap=source is not None,
        )

    try:
        content = load()
    except pickle.UnpicklingError as error:
        if _NAMESPACE not in str(error):
            raise
        file.seek(0)
        # Without the lock, another thread could end the permission too early.
        with _lock, torch.serialization.safe_globals([(argparse.Namespace, _NAMESPACE)]):
            content = load()
    if archive is not None and not options.read_before:
        _check_numbers(archive)
    return content, 0 if source is None else total


def _is_archive(file: BinaryIO) -> bool:
    """Return whether an open file begins like a zip archive."""
    file.seek(0)
    return file.read(len(_LOCAL)) == _LOCAL


def _checked_archive(file: BinaryIO, size: int, *, checksums: bool) -> zipfile.ZipFile:
    """Return an archive after checking its directory and, if asked, its contents.

    Args:
        file: The open file.
        size: The size of the file in bytes.
        checksums: Whether to compare each entry with its checksum, and the directory with the
            header of each entry.

    Raises:
        ValueError: torch does not write such an archive. The message is short.
    """
    archive = _directory(file, size)
    if checksums:
        for entry in archive.infolist():
            _check_entry(archive, entry)
    return archive


def _check_numbers(archive: zipfile.ZipFile) -> None:
    """Refuse object numbers that would make an unpickler in C allocate much memory."""
    name = next(one for one in archive.namelist() if one.partition("/")[2] == "data.pkl")
    pickled = archive.read(name)
    for opcode, number, _ in pickletools.genops(pickled):
        if "PUT" in opcode.name and number is not None and int(number) > len(pickled):
            raise ValueError(f"an object in it has the number {number}, but it has fewer objects")


def _bytes_of_tensors(archive: zipfile.ZipFile) -> int:
    return sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)


def _directory(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """Return an archive if torch writes such a directory."""
    file.seek(max(size - _END_SIZE, 0))
    end = file.read(_END_SIZE)
    if not end.startswith(_END):
        raise ValueError("it is a zip archive that is cut short or has bytes after its end")
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"the directory of the zip archive is damaged: {error}") from None
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("two entries in it have the same name")
    _check_kind({entry.filename.partition("/")[2] for entry in entries})
    position = 0
    for index, entry in enumerate(entries):
        if entry.header_offset < position or (index == 0 and entry.header_offset):
            raise ValueError(f"{entry.filename!r:.80} in it has a wrong position")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"{entry.filename!r:.80} in it is compressed, which torch never does")
        if entry.file_size != entry.compress_size:
            raise ValueError(f"{entry.filename!r:.80} in it has two sizes")
        position = entry.header_offset + LOCAL_SIZE + entry.file_size
    if position > size:
        raise ValueError("its last tensor is incomplete")
    return archive


def _check_kind(names: set[str]) -> None:
    if "constants.pkl" in names:
        raise ValueError(
            "it is a TorchScript archive, which contains a program. If you trust it, load it with "
            "torch.jit.load and save its state dict"
        )
    if "data.pkl" not in names:
        raise ValueError("it is a zip archive that torch.save did not write")


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    try:
        content = archive.open(entry)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{entry.filename!r:.80} in it is not at the position in the directory"
        ) from error
    try:
        while content.read(_CHUNK):
            pass
    except zipfile.BadZipFile as error:
        raise ValueError(f"the checksum of {entry.filename!r:.80} in it is wrong") from error
