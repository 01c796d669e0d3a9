"""Convert a weights file once into a copy that headstrip can map.

headstrip uses a mapped tensor in place if it starts at a multiple of 64 bytes. Files of safetensors
do not promise that, and files in the format before torch 1.6 cannot be mapped at all. The copy is
a file of safetensors in headstrip's cache, named after the sha256 of its source.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from headstrip._version import __version__
from headstrip.errors import WeightsError, one_line
from headstrip.network.assigning import ALIGNMENT
from headstrip.system.atomic import remove_leftovers, written_beside
from headstrip.weights.description import DESCRIPTION, take_apart
from headstrip.weights.mapping import Guard, guard
from headstrip.weights.parsing import parse
from headstrip.weights.problems import not_readable
from headstrip.weights.records import find_copy, path_of_copy, recorded, remember
from headstrip.weights.safetensors_file import write_safetensors
from headstrip.weights.trust import hash_of

_MOST_LARGER = 16


def optimize(path: Path) -> Path:
    """Return the optimized copy of a weights file, and write it if it is missing or damaged.

    The copy has the same content: the bits of each tensor, tensors that are one under two names,
    the versions of modules, and the other values of a checkpoint. Its tensors are contiguous, even
    if those of the file are not.

    Raises:
        WeightsError: The file is not a weights file, its content cannot be converted, or the disk
            has no room for the copy.
    """
    try:
        with open(path, "rb") as file:
            watch = guard(path, file)
            sha256 = hash_of(file)
            if (found := find_copy(sha256)) is not None and _is_whole(found):
                return found
            content = parse(path, file).content
    except OSError as error:
        raise not_readable(path, error) from error
    tensors, description = _taken_apart(path, content)
    metadata = {
        "source_sha256": sha256,
        "headstrip": __version__,
        DESCRIPTION: description,
    }
    return _write(path_of_copy(sha256), tensors, metadata, watch)


def _is_whole(copy: Path) -> bool:
    """Whether a copy has the bytes that headstrip wrote."""
    record = recorded(copy)
    with suppress(OSError), open(copy, "rb") as file:
        return record is not None and hash_of(file) == record.sha256
    return False


def _taken_apart(path: Path, content: object) -> tuple[dict[str, Tensor], str]:
    try:
        tensors, description = take_apart(content)
    except (TypeError, RecursionError) as error:
        is_deep = isinstance(error, RecursionError)
        found = "objects inside too many others" if is_deep else one_line(error, 200)
        raise WeightsError(
            f"headstrip cannot convert {path}: it contains {found}. Save its state dict alone, and "
            "convert that."
        ) from None
    size, needed = path.stat().st_size, sum(tensor.nbytes for tensor in tensors.values())
    if needed > _MOST_LARGER * size:
        raise WeightsError(
            f"headstrip does not convert {path}: the copy would take {needed:,} bytes instead of "
            f"{size:,}, because the file has tensors that were expanded. Save a state dict without "
            "expanded tensors, and convert that."
        )
    return tensors, description


def _write(
    target: Path, tensors: dict[str, Tensor], metadata: dict[str, str], watch: Guard
) -> Path:
    """Write the copy under a temporary name, rename it, and record its sha256."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        with written_beside(target, durable=True) as file:
            hashed = _HashedFile(file)
            write_safetensors(hashed, tensors, metadata, alignment=ALIGNMENT)
            watch.check()
        stat = os.stat(target)
    except OSError as error:
        raise WeightsError(
            f"headstrip cannot write the optimized copy {target} ({one_line(error)}). Make room, "
            "or set HEADSTRIP_CACHE to a writable folder."
        ) from error
    remember(target, stat, hashed.digest.hexdigest(), origin="optimized")
    return target


class _HashedFile:
    """Writes to a file, and hashes the same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, data: bytes, /) -> None:
        self.digest.update(data)
        self._file.write(data)
