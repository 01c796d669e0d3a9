"""Read and map a zip archive that torch has read before, in a fifth of the time.

torch's unpickler for ``weights_only=True`` is written in Python. This module uses the standard
unpickler, which is written in C. It finds only the storages, the function and the class that a
state dict needs. It reads only bytes that torch accepted before, and whose object numbers
`torch_file` checked.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO

import torch
from torch import Tensor

from headstrip.weights.legacy import STORAGES
from headstrip.weights.mapping import map_file

LOCAL_SIZE = 30
"""Size in bytes of the header before each entry, without the name and the extra field."""
_LENGTHS = 26
"""Position in the header of the lengths of the name and the extra field."""


def map_archive(file: BinaryIO, archive: zipfile.ZipFile) -> object | None:
    """Map the tensors of an open file, and return its content.

    Args:
        file: The open file. torch must have accepted the same bytes before.
        archive: The directory of the file, in the form that torch writes.

    Returns:
        The same object as ``torch.load``. None if the file has more than a state dict, so that
        torch must read it, or if the system cannot map the file.
    """
    entries = {one.filename.partition("/")[2]: one for one in archive.infolist()}
    order = entries.get("byteorder")
    whole = map_file(file)
    if whole is None or (order is not None and archive.read(order) != sys.byteorder.encode()):
        return None
    try:
        content: object = _StateDict(file, archive.read(entries["data.pkl"]), entries, whole).load()
    except (pickle.UnpicklingError, LookupError, TypeError, ValueError):
        return None
    return content


class _Rebuild:
    """Replaces ``torch._utils._rebuild_tensor_v2`` for the storages of `_StateDict`."""

    __slots__ = ()

    def __call__(
        self,
        storage: tuple[torch.dtype, torch.UntypedStorage],
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: object,
    ) -> Tensor:
        dtype, memory = storage
        tensor = torch.empty(0, dtype=dtype, device="cpu").set_(memory, offset, size, stride)
        return tensor.requires_grad_() if requires_grad else tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _StateDict(pickle.Unpickler):
    """Reads a pickle that names only the objects in ``_ALLOWED``."""

    def __init__(
        self,
        file: BinaryIO,
        pickled: bytes,
        entries: dict[str, zipfile.ZipInfo],
        whole: torch.UntypedStorage,
    ) -> None:
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self._file = file
        self._entries = entries
        self._whole = whole
        self._storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED[module, name]

    def persistent_load(self, claimed: Any) -> tuple[torch.dtype, torch.UntypedStorage]:
        """Return a storage: ("storage", type, key, device, elements)."""
        _, dtype, key, _, elements = claimed
        if key not in self._storages:
            entry = self._entries[f"data/{key}"]
            size = elements * dtype.itemsize
            if not 0 <= size <= entry.file_size:
                raise ValueError("a tensor in it does not have the size that the file states")
            start = self._start(entry)
            self._storages[key] = self._whole[start : start + size]
        return dtype, self._storages[key]

    def _start(self, entry: zipfile.ZipInfo) -> int:
        self._file.seek(entry.header_offset + _LENGTHS)
        lengths = self._file.read(LOCAL_SIZE - _LENGTHS)
        name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
        return entry.header_offset + LOCAL_SIZE + name + extra
