"""Where the tensors of a file lie, written down once, so that the file is parsed once.

Parsing takes longer than anything else in a build from a mapped file. What it found is kept in
headstrip's cache under the sha256 of the file; the next build of the same bytes maps the file, or
reads its tensors, and makes nothing else.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from headstrip.network.aligning import align
from headstrip.system.atomic import write_atomically
from headstrip.weights.archive import data_places, is_archive
from headstrip.weights.copying import read_parts
from headstrip.weights.description import restore, take_apart
from headstrip.weights.mapping import guard, map_file
from headstrip.weights.parsing import Parsed
from headstrip.weights.problems import too_large
from headstrip.weights.records import cache_home
from headstrip.weights.safetensors_header import DTYPES

_FORMAT = 1
_LARGEST = 1 << 24
_MAPS = Path("/proc/self/maps")
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\w+):(\w+) (\d+)")
_DTYPES = {str(dtype): dtype for dtype in DTYPES.values()}


def parse_again(
    path: Path, file: BinaryIO, sha256: str, *, mapped: bool, limit: int | None
) -> Parsed | None:
    """Return the content of a file whose layout is known, None where it is not.

    Args:
        path: The file, for messages.
        file: The file, open, whose bytes have the hash.
        sha256: Hexadecimal sha256 of it.
        mapped: Whether to map it; else its tensors are read into memory.
        limit: The most bytes of tensors that it may hold, None for any.

    Raises:
        WeightsError: It holds more than ``limit``.
    """
    try:
        with open(_layout_of(sha256), "rb") as opened:
            layout = json.loads(opened.read(_LARGEST))
        if layout["format"] != _FORMAT:
            return None
        held = sum(size for _, size in layout["storages"])
        if limit is not None and held > limit:
            raise too_large(path, held, limit)
        if not mapped:
            size = os.fstat(file.fileno()).st_size
            parts = read_parts(file, _places(layout, size))
            content = restore(_tensors(parts, layout), layout["description"])
            align(content)
            return Parsed(content, None, 0)
        # Before the mapping: what changes from now on is noticed.
        watch = guard(path, file)
        whole = map_file(file)
        if whole is None:
            return None
        # One for each, as torch has it: saving one tensor must not save the file.
        parts = [whole[start : start + count] for start, count in _places(layout, whole.nbytes())]
        return Parsed(restore(_tensors(parts, layout), layout["description"]), watch, held)
    # No layout, or one that is damaged: the file is parsed.
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, RecursionError) as error:
        if isinstance(error, RuntimeError) and type(error).__module__.startswith("headstrip"):
            raise
        return None


def note_layout(file: BinaryIO, sha256: str, parsed: Parsed, *, copied: bool = False) -> None:
    """Write down where the tensors of a file lie that was mapped whole; else nothing.

    Args:
        file: The file, open.
        sha256: Hexadecimal sha256 of it.
        parsed: What it holds.
        copied: Whether to do it for an archive of torch too that was read into memory. Its tensors
            are compared with the file for that, which takes as long as reading it.
    """
    if not parsed.mapped_bytes and not (copied and is_archive(file)):
        return
    # What no description has a form for, and what cannot be written, is parsed each time.
    with suppress(TypeError, ValueError, RecursionError, OSError):
        tensors, description = take_apart(parsed.content)
        places = _Places(file, _mapped(file) if parsed.mapped_bytes else _archived(file))
        rows = [[name, *places.row(tensor)] for name, tensor in tensors.items()]
        layout = {
            "format": _FORMAT, "storages": places.storages, "tensors": rows,
            "description": description,
        }  # fmt: skip
        target = _layout_of(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, json.dumps(layout).encode())


def _layout_of(sha256: str) -> Path:
    return cache_home() / "layouts" / f"{sha256}.json"


def _places(layout: dict[str, Any], size: int) -> list[tuple[int, int]]:
    """Return where each storage starts in a file of so many bytes, and how many bytes it has."""
    for start, count in layout["storages"]:
        if not 0 <= start <= start + count <= size:
            raise ValueError("a storage lies outside the file")
    return [(start, count) for start, count in layout["storages"]]


def _tensors(storages: list[torch.UntypedStorage], layout: dict[str, Any]) -> dict[str, Tensor]:
    tensors = {}
    for name, dtype, storage, offset, shape, stride in layout["tensors"]:
        empty = torch.empty(0, dtype=_DTYPES[dtype])
        tensors[name] = empty.set_(storages[storage], offset, shape, stride)
    return tensors


Offset = Callable[[torch.UntypedStorage], int]


class _Places:
    """The storages of a file, and where each of its tensors is in them."""

    def __init__(self, file: BinaryIO, offset_of: Offset) -> None:
        self.storages: list[list[int]] = []
        self._indices: dict[int, int] = {}
        self._offset_of = offset_of
        self._file = file

    def row(self, tensor: Tensor) -> list[Any]:
        """Return the dtype, storage, offset, shape and strides of a tensor.

        Raises:
            ValueError: It is nowhere in the file as it stands.
        """
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._indices:
            self._indices[address] = len(self.storages)
            offset = self._offset_of(storage) if storage.nbytes() else 0
            self.storages.append([offset, storage.nbytes()])
        return [
            str(tensor.dtype), self._indices[address], tensor.storage_offset(),
            list(tensor.shape), list(tensor.stride()),
        ]  # fmt: skip


def _mapped(file: BinaryIO) -> Offset:
    """Return what finds a storage in a mapped file by its address."""
    inode = os.fstat(file.fileno()).st_ino
    mapped = [
        (start, end, offset) for start, end, offset, other in _mappings() if other == inode
    ]  # fmt: skip

    def offset_of(storage: torch.UntypedStorage) -> int:
        address, size = storage.data_ptr(), storage.nbytes()
        for start, end, offset in mapped:
            if start <= address and address + size <= end:
                found = address - start + offset
                # Several files may have one inode, of several devices.
                file.seek(found)
                ends = bytes(storage[: min(size, 64)].tolist())
                if file.read(len(ends)) == ends:
                    return found
        raise ValueError("a tensor lies elsewhere")

    return offset_of


def _archived(file: BinaryIO) -> Offset:
    """Return what finds a copied storage in an archive by its bytes: mostly the next of a size."""
    waiting: defaultdict[int, list[int]] = defaultdict(list)
    for start, size in data_places(file):
        waiting[size].append(start)

    def offset_of(storage: torch.UntypedStorage) -> int:
        size = storage.nbytes()
        copied = torch.empty(0, dtype=torch.uint8).set_(storage)
        for start in waiting[size]:
            (there,) = read_parts(file, [(start, size)])
            if torch.equal(copied, torch.empty(0, dtype=torch.uint8).set_(there)):
                waiting[size].remove(start)
                return start
        raise ValueError("a tensor lies elsewhere")

    return offset_of


def _mappings() -> list[tuple[int, int, int, int]]:
    """Return the start, end, offset in the file and inode of each mapping of this process."""
    found = (_LINE.match(line) for line in _MAPS.read_text().splitlines())
    return [
        (int(one[1], 16), int(one[2], 16), int(one[3], 16), int(one[6])) for one in found if one
    ]
