"""Files of safetensors: a header, and the tensors one after another."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from headstrip.network.aligning import ALIGNMENT
from headstrip.weights.copying import read_parts
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
    others = [entry for entry in header.entries if entry.name not in kept]
    parts = read_parts(file, [(entry.start, entry.size) for entry in others])
    tensors = {entry.name: _tensor(part, entry) for entry, part in zip(others, parts, strict=True)}
    if storage is not None:
        for entry in aligned:
            part = storage[entry.start : entry.start + entry.size]
            tensors[entry.name] = _tensor(part, entry)
    return tensors, header.metadata, sum(entry.size for entry in aligned)


def _tensor(storage: torch.UntypedStorage, entry: Entry) -> Tensor:
    strides, step = [], 1
    for count in reversed(entry.shape):
        strides.append(step)
        step *= max(count, 1)
    tensor = torch.empty(0, dtype=entry.dtype, device="cpu")
    return tensor.set_(storage, 0, entry.shape, tuple(reversed(strides)))
