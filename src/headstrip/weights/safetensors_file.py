"""Files of safetensors: a header, and the tensors one after another."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from headstrip.weights.aligning import ALIGNMENT
from headstrip.weights.mapping import map_file
from headstrip.weights.problems import too_large
from headstrip.weights.safetensors_header import Entry, read_header


def read_safetensors(
    path: Path, file: BinaryIO, size: int, *, mapped: bool, limit: int | None
) -> tuple[dict[str, Tensor], dict[str, str], int]:
    """Read an open file.

    Returns:
        Its tensors, each of a storage of its own, its metadata, and how many bytes are mapped.

    Raises:
        WeightsError: The header is not right, or names more bytes than ``limit``.
    """
    header = read_header(path, file, size)
    held = sum(entry.size for entry in header.entries)
    if limit is not None and held > limit:
        raise too_large(path, held, limit)
    storage = map_file(file) if mapped else None
    aligned = [
        entry for entry in header.entries if storage is not None and entry.start % ALIGNMENT == 0
    ]
    kept = {entry.name for entry in aligned}
    tensors = _copies(file, [entry for entry in header.entries if entry.name not in kept])
    if storage is not None:
        for entry in aligned:
            part = storage[entry.start : entry.start + entry.size]
            tensors[entry.name] = _tensor(part, entry)
    return tensors, header.metadata, sum(entry.size for entry in aligned)


def _copies(file: BinaryIO, entries: list[Entry]) -> dict[str, Tensor]:
    """Read tensors into one piece of memory, each where it is aligned there.

    What stands in a row in the file and in memory is read in one go.
    """
    places, end = [], 0
    for entry in entries:
        places.append(end)
        end += -(-entry.size // ALIGNMENT) * ALIGNMENT
    memory = torch.empty(end, dtype=torch.uint8, device="cpu")
    view = memory.numpy().data
    row = 0
    for index, entry in enumerate(entries):
        following = index + 1
        if (
            following == len(entries)
            or entry.size % ALIGNMENT
            or entries[following].start != entry.start + entry.size
        ):
            first = entries[row]
            _fill(file, first.start, view[places[row] : places[index] + entry.size])
            row = following
    storage = memory.untyped_storage()
    return {
        entry.name: _tensor(storage[place : place + entry.size], entry)
        for entry, place in zip(entries, places, strict=True)
    }


def _fill(file: BinaryIO, start: int, view: memoryview) -> None:
    file.seek(start)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it ends before its last tensor does")
        done += count


def _tensor(storage: torch.UntypedStorage, entry: Entry) -> Tensor:
    strides, step = [], 1
    for count in reversed(entry.shape):
        strides.append(step)
        step *= max(count, 1)
    tensor = torch.empty(0, dtype=entry.dtype, device="cpu")
    return tensor.set_(storage, 0, entry.shape, tuple(reversed(strides)))
