"""Check files in the format before torch 1.6: five pickles, then one storage after another.

torch allocates the memory that such a file claims before it reads the rest. If the file does not
contain a claimed storage, the memory stays uninitialised. So headstrip reads the claims first. It
uses stand-ins for everything except plain values, and imports, calls and allocates nothing.
"""

from __future__ import annotations

import pickle
from typing import Any, BinaryIO

import torch

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_START = 32
_COUNT_SIZE = 8


def check_legacy(file: BinaryIO, size: int) -> int:
    """Check that a file contains each storage that it names, exactly once.

    Args:
        file: The open file.
        size: The size of the file in bytes.

    Returns:
        The number of bytes of its tensors.

    Raises:
        Exception: torch does not write such a file. A ValueError has a short message.
    """
    file.seek(0)
    # Do not read a file of another kind as a pickle.
    begins = _MAGIC.to_bytes(10, "little") in file.read(_START)
    file.seek(0)
    if not begins or _Claims(file).load() != _MAGIC:
        raise ValueError("it does not begin like a file of torch.save")
    if _Claims(file).load() != _PROTOCOL:
        raise ValueError("it has a version number that torch never wrote")
    _Claims(file).load()
    content = _Claims(file)
    content.load()
    claims, keys = content.claims, _Claims(file).load()
    if not isinstance(keys, list) or sorted(keys) != sorted(claims):
        raise ValueError("the tensors that it lists are not the tensors that it contains")
    position = file.tell()
    for key in keys:
        elements, itemsize = claims[key]
        file.seek(position)
        if int.from_bytes(file.read(_COUNT_SIZE), "little") != elements:
            raise ValueError("a tensor in it does not have the size that the file states")
        position += _COUNT_SIZE + elements * itemsize
    if position > size:
        raise ValueError("its last tensor is incomplete")
    return sum(elements * itemsize for elements, itemsize in claims.values())


class _StandIn:
    """Replaces every class and function that a pickle names, and every object that they return."""

    __slots__ = ()
    itemsize = 0

    def __init__(self, *_: Any) -> None:
        """Ignore the arguments in the pickle."""

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignore an item that the pickle appends."""


STORAGES: dict[str, torch.dtype] = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
"""The dtype of each kind of storage, by the name that a pickle has for it."""

_QUANTISED = {"QInt8": 1, "QInt32": 4, "QUInt2x4": 1, "QUInt4x2": 1, "QUInt8": 1}
_STAND_INS = {
    name: type(name, (_StandIn,), {"itemsize": size})
    for name, size in (
        *((name, dtype.itemsize) for name, dtype in STORAGES.items()),
        *((f"{name}Storage", size) for name, size in _QUANTISED.items()),
    )
}


# This is the unpickler in Python. The one in C allocates memory as a number in the file says.
class _Claims(pickle._Unpickler):
    """Reads a pickle of plain values and stand-ins, and collects the storages that it claims.

    Attributes:
        claims: The number of elements and the bytes per element, by the key of the storage.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.claims: dict[str, tuple[int, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        return _STAND_INS.get(name, _StandIn)

    def get_extension(self, code: int) -> None:
        raise ValueError("it names a class by a number")

    def persistent_load(self, claimed: Any) -> _StandIn:
        """Collect a storage: ("storage", type, key, device, elements, view or None)."""
        if not isinstance(claimed, tuple) or len(claimed) != 6 or claimed[0] != "storage":
            raise ValueError("it has more than tensors and plain values, such as a whole model")
        kind, key, elements, view = claimed[1], claimed[2], claimed[4], claimed[5]
        itemsize = getattr(kind, "itemsize", 0)
        if (
            not itemsize
            or not isinstance(key, str)
            or type(elements) is not int
            or elements < 0
            or not (view is None or isinstance(view, tuple))
            or self.claims.setdefault(key, (elements, itemsize)) != (elements, itemsize)
        ):
            raise ValueError("torch does not write such a description of a tensor")
        return _StandIn()
