"""Files of ``torch.save``: read with ``weights_only=True``, always, and with no way around it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO

import torch
from torch.serialization import get_default_mmap_options

from headstrip.network.aligning import align, tensors_in
from headstrip.weights.archive import check_archive, is_archive
from headstrip.weights.legacy import check_legacy
from headstrip.weights.mapping import descriptor_path
from headstrip.weights.problems import too_large


def read_torch(
    path: Path, file: BinaryIO, size: int, *, mapped: bool, checked: bool, limit: int | None
) -> tuple[object, int]:
    """Read an open file.

    Returns:
        What it holds, and how many bytes of it are mapped: those of the format before torch 1.6
        cannot be.

    Raises:
        WeightsError: It holds more bytes of tensors than ``limit``.
        Exception: Whatever the parsers meet in a file that is damaged or holds code.
    """
    archive = is_archive(file)
    held = check_archive(file, size, checksums=not checked) if archive else check_legacy(file, size)
    if limit is not None and held > limit:
        raise too_large(path, held, limit)
    file.seek(0)
    # What torch maps shared, as it can be told to, would be written to the file.
    mapped = mapped and archive and get_default_mmap_options() == getattr(mmap, "MAP_PRIVATE", 0)
    source = descriptor_path(file) if mapped else None
    content = torch.load(
        file if source is None else source,
        map_location="cpu",
        weights_only=True,
        mmap=source is not None,
    )
    moved = align(content)
    return content, 0 if source is None else _bytes_of(content) - moved


def _bytes_of(content: object) -> int:
    storages = {}
    for tensor in tensors_in(content):
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
