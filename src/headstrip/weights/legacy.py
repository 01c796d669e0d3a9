"""The files that torch wrote before 1.6: five pickles, and the storages one after another.

torch allocates what such a file claims before it looks at the rest, and leaves memory
uninitialised where the file claims a storage and does not hold it. So headstrip reads the claims
first, with stand-ins for everything but plain values: nothing is imported, called or allocated.
"""

from __future__ import annotations

import pickle
from typing import Any, BinaryIO

import torch

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_BEGINNING = 32
_COUNT = 8


def check_legacy(file: BinaryIO, size: int) -> int:
    """Check that a file holds the storages that it names, each once.

    Args:
        file: The open file.
        size: Its bytes.

    Returns:
        The bytes of tensors in it.

    Raises:
        Exception: It is not as torch writes it. The message of a ValueError is a few words.
    """
    file.seek(0)
    # What is another file altogether is not read as a pickle.
    begins = _MAGIC.to_bytes(10, "little") in file.read(_BEGINNING)
    file.seek(0)
    if not begins or _Claims(file).load() != _MAGIC:
        raise ValueError("it does not begin as a file of torch.save does")
    if _Claims(file).load() != _PROTOCOL:
        raise ValueError("it is of a version that torch never wrote")
    _Claims(file).load()
    content = _Claims(file)
    content.load()
    claims, keys = content.claims, _Claims(file).load()
    if not isinstance(keys, list) or sorted(keys) != sorted(claims):
        raise ValueError("it names other tensors than it holds")
    position = file.tell()
    for key in keys:
        elements, itemsize = claims[key]
        file.seek(position)
        if int.from_bytes(file.read(_COUNT), "little") != elements:
            raise ValueError("a tensor in it has another size than it says, or is cut short")
        position += _COUNT + elements * itemsize
    if position > size:
        raise ValueError("it ends before its last tensor does")
    return sum(elements * itemsize for elements, itemsize in claims.values())


class _StandIn:
    """Takes the place of every class and function that a pickle names, and of what they return."""

    __slots__ = ()
    itemsize = 0

    def __init__(self, *_: Any) -> None:
        """Ignore the arguments that the pickle has."""

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignore what the pickle puts into it."""


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
"""Names in a pickle of the kinds of storages, and what each holds."""

_QUANTISED = {"QInt8": 1, "QInt32": 4, "QUInt2x4": 1, "QUInt4x2": 1, "QUInt8": 1}
_STAND_INS = {
    name: type(name, (_StandIn,), {"itemsize": size})
    for name, size in (
        *((name, dtype.itemsize) for name, dtype in STORAGES.items()),
        *((f"{name}Storage", size) for name, size in _QUANTISED.items()),
    )
}


# Written in Python: that in C allocates as much memory as one number in the file says.
class _Claims(pickle._Unpickler):
    """Reads a pickle of plain values and stand-ins, and keeps what it claims of storages.

    Attributes:
        claims: The elements and the bytes of each element, by the key of the storage.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.claims: dict[str, tuple[int, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        return _STAND_INS.get(name, _StandIn)

    def get_extension(self, code: int) -> None:
        raise ValueError("it names a class by a number")

    def persistent_load(self, claimed: Any) -> _StandIn:
        """Note a storage: ("storage", type, key, place, elements, a part of it or None)."""
        if not isinstance(claimed, tuple) or len(claimed) != 6 or claimed[0] != "storage":
            raise ValueError("it holds more than tensors and plain values, such as a whole model")
        kind, key, elements, part = claimed[1], claimed[2], claimed[4], claimed[5]
        itemsize = getattr(kind, "itemsize", 0)
        if (
            not itemsize
            or not isinstance(key, str)
            or type(elements) is not int
            or elements < 0
            or not (part is None or isinstance(part, tuple))
            or self.claims.setdefault(key, (elements, itemsize)) != (elements, itemsize)
        ):
            raise ValueError("the description of a tensor in it is not what torch writes")
        return _StandIn()
