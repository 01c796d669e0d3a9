"""Files of ``torch.save``: read with ``weights_only=True``, or by what knows still fewer classes.

Beside tensors and plain values a file may hold an ``argparse.Namespace``, the settings of a
training program. It is a bag of attributes: reading one runs no code.

Zip archives are checked before torch reads them: torch compares no checksum, and takes the place of
a tensor in the file from the archive's directory.
"""

from __future__ import annotations

import argparse
import mmap
import pickle
import pickletools
import threading
import zipfile
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
"""Held while torch may read a Namespace, which it permits for the whole process."""

_CHUNK = 1 << 20
_LOCAL = b"PK\x03\x04"
_END = b"PK\x05\x06"
_END_SIZE = 22


def read_torch(
    path: Path,
    file: BinaryIO,
    size: int,
    *,
    mapped: bool,
    checked: bool,
    read_before: bool,
    limit: int | None,
) -> tuple[object, int]:
    """Read an open file. ``parsing.parse`` describes the arguments.

    Returns:
        What it holds, and how many bytes of it are mapped: those of the format before torch 1.6
        cannot be.

    Raises:
        WeightsError: It holds more bytes of tensors than ``limit``.
        Exception: Whatever the parsers meet in a file that is damaged or holds code.
    """
    archive = _checked_archive(file, size, checksums=not checked) if _is_archive(file) else None
    held = check_legacy(file, size) if archive is None else _bytes_of_tensors(archive)
    if limit is not None and held > limit:
        raise too_large(path, held, limit)
    if mapped and read_before and archive is not None:
        content = map_archive(file, archive)
        if content is not None:
            return content, held
    file.seek(0)
    # torch can be set to map shared: writing to a tensor would then change the file.
    mapped = (
        mapped
        and archive is not None
        and get_default_mmap_options() == getattr(mmap, "MAP_PRIVATE", 0)
    )
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
        # Another thread must not end the permission meanwhile.
        with _lock, torch.serialization.safe_globals([(argparse.Namespace, _NAMESPACE)]):
            content = load()
    if archive is not None and not read_before:
        _check_numbers(archive)
    return content, 0 if source is None else held


def _is_archive(file: BinaryIO) -> bool:
    """Whether an open file begins as a zip archive does."""
    file.seek(0)
    return file.read(len(_LOCAL)) == _LOCAL


def _checked_archive(file: BinaryIO, size: int, *, checksums: bool) -> zipfile.ZipFile:
    """Check the directory of an archive, and its contents where they are not known to be right.

    Args:
        file: The open file.
        size: Its bytes.
        checksums: Whether to compare each entry with its checksum, and the directory with the
            header before each entry.

    Returns:
        The archive.

    Raises:
        ValueError: It is not as torch writes it. The message is a few words.
    """
    archive = _directory(file, size)
    if checksums:
        for entry in archive.infolist():
            _check_entry(archive, entry)
    return archive


def _check_numbers(archive: zipfile.ZipFile) -> None:
    """Refuse an object with a number for which an unpickler in C would allocate memory."""
    name = next(one for one in archive.namelist() if one.partition("/")[2] == "data.pkl")
    pickled = archive.read(name)
    for opcode, number, _ in pickletools.genops(pickled):
        if "PUT" in opcode.name and number is not None and int(number) > len(pickled):
            raise ValueError(f"an object in it has the number {number}, and it has fewer objects")


def _bytes_of_tensors(archive: zipfile.ZipFile) -> int:
    return sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)


def _directory(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """Return an archive whose directory is as torch writes it."""
    file.seek(max(size - _END_SIZE, 0))
    end = file.read(_END_SIZE)
    if not end.startswith(_END):
        raise ValueError("it is a zip archive without its end, or with something after it")
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"its directory is not one of a zip archive: {error}") from None
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("two entries in it have the same name")
    _check_kind({entry.filename.partition("/")[2] for entry in entries})
    position = 0
    for index, entry in enumerate(entries):
        if entry.header_offset < position or (index == 0 and entry.header_offset):
            raise ValueError(f"{entry.filename!r:.80} in it is not where it should be")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"{entry.filename!r:.80} in it is compressed, which torch does not do")
        if entry.file_size != entry.compress_size:
            raise ValueError(f"{entry.filename!r:.80} in it has two sizes")
        position = entry.header_offset + LOCAL_SIZE + entry.file_size
    if position > size:
        raise ValueError("it ends before its last tensor does")
    return archive


def _check_kind(names: set[str]) -> None:
    if "constants.pkl" in names:
        raise ValueError(
            "it is a TorchScript archive, a program and more than tensors: load it with "
            "torch.jit.load where you trust it, and save its state dict"
        )
    if "data.pkl" not in names:
        raise ValueError("it is a zip archive that torch.save did not write")


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    try:
        content = archive.open(entry)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{entry.filename!r:.80} in it is not where its directory says") from error
    try:
        while content.read(_CHUNK):
            pass
    except zipfile.BadZipFile as error:
        raise ValueError(f"the checksum of {entry.filename!r:.80} in it is wrong") from error
