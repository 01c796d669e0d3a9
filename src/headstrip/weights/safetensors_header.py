"""The header of a file of safetensors: eight bytes of length, and JSON.

It is read entry by entry against what the format allows, so that nothing is built of what
it does not, whatever the length: the memory that reading takes is bounded by the header's size.
The format's own library lets the same name pass twice.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import torch

from headstrip.weights.problems import damaged

_LENGTH = 8
_LONGEST_HEADER = 100_000_000
_MOST_TENSORS = 1 << 16
_MOST_DIMENSIONS = 64
_MOST = (1 << 63) - 1

_SPACE = r"[ \t\n\r]*"
_QUOTE = re.compile(rf"{_SPACE}\"")
_COLON = re.compile(rf"{_SPACE}:{_SPACE}")
_TENSOR = re.compile(r"\{[^{}]{0,4096}\}")
_NEXT = re.compile(rf"{_SPACE}([,}}])")
_OPEN = re.compile(rf"\{{{_SPACE}(\}}?)")
_END = re.compile(rf"{_SPACE}\Z")
_DECODER = json.JSONDecoder(object_pairs_hook=list)

DTYPES = {
    name: getattr(torch, attribute)
    for name, attribute in {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
        "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
        "BOOL": "bool", "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    }.items()
    if hasattr(torch, attribute)
}  # fmt: skip
"""torch's types of tensors by the format's names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a header.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: Its shape.
        start: Where its first byte is, from the beginning of the file.
        size: How many bytes it has.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its tensors, in the order of their bytes, and of itself."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]


def read_header(path: Path, file: BinaryIO, size: int) -> Header:
    """Read and check the header of a file.

    Args:
        path: Its name, for messages.
        file: The open file.
        size: Its bytes.

    Raises:
        WeightsError: It is not one of safetensors, names a tensor twice, leaves holes between
            them, lets them overlap, or does not account for the file to its last byte.
    """
    try:
        return _read(file, size)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is not one of safetensors: {error}") from None


def _read(file: BinaryIO, size: int) -> Header:
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH), "little")
    if size < _LENGTH or length > min(size - _LENGTH, _LONGEST_HEADER):
        _refuse(f"it would be {length} bytes long, in a file of {size}")
    encoded = file.read(length)
    if len(encoded) != length:
        _refuse("the file ends in it")
    text = encoded.decode("utf-8")
    del encoded
    entries, metadata = _entries(text, _LENGTH + length)
    entries.sort(key=lambda entry: (entry.start, entry.size))
    position = _LENGTH + length
    for entry in entries:
        if entry.start != position:
            _refuse(f"tensor {entry.name!r:.80} does not start where the one before it ends")
        position += entry.size
    if position != size:
        _refuse(f"its tensors end at byte {position}, and the file has {size}")
    return Header(tuple(entries), metadata)


def _entries(text: str, data: int) -> tuple[list[Entry], dict[str, str]]:
    entries: list[Entry] = []
    metadata: dict[str, str] = {}
    names = set[str]()
    opened = _OPEN.match(text) or _refuse("it is no JSON object")
    position, done = opened.end(), bool(opened[1])
    while not done:
        name, position = _name(text, position)
        if name in names:
            _refuse(f"it names {name!r:.80} twice")
        names.add(name)
        if len(names) > _MOST_TENSORS:
            _refuse(f"it names more than {_MOST_TENSORS} tensors")
        if name == "__metadata__":
            metadata, position = _metadata(text, position)
        else:
            found = _TENSOR.match(text, position) or _refuse(f"{name!r:.80} is no tensor")
            entries.append(_entry(name, found[0], data))
            position = found.end()
        position, done = _next(text, position)
    if not _END.match(text, position):
        _refuse("something follows its end")
    return entries, metadata


def _metadata(text: str, position: int) -> tuple[dict[str, str], int]:
    metadata: dict[str, str] = {}
    opened = _OPEN.match(text, position) or _refuse("its metadata are no JSON object")
    position, done = opened.end(), bool(opened[1])
    while not done:
        name, position = _name(text, position)
        value, position = _string(text, position) or _refuse(
            f"its metadata {name!r:.80} is no text"
        )
        if name in metadata:
            _refuse(f"its metadata name {name!r:.80} twice")
        if len(metadata) == _MOST_TENSORS:
            _refuse(f"it has more than {_MOST_TENSORS} metadata")
        metadata[name] = value
        position, done = _next(text, position)
    return metadata, position


def _name(text: str, position: int) -> tuple[str, int]:
    name, position = _string(text, position) or _refuse(f"there is no name at {position}")
    found = _COLON.match(text, position) or _refuse(f"{name!r:.80} is nothing")
    return name, found.end()


def _next(text: str, position: int) -> tuple[int, bool]:
    found = _NEXT.match(text, position) or _refuse(f"it breaks off at {position}")
    return found.end(), found[1] == "}"


def _string(text: str, position: int) -> tuple[str, int] | None:
    """Read a text, and return where it ends; None where there is none."""
    found = _QUOTE.match(text, position)
    if found is None:
        return None
    value, end = _DECODER.raw_decode(text, found.end() - 1)
    value.encode()
    return value, end


def _entry(name: str, text: str, data: int) -> Entry:
    pairs = _DECODER.decode(text)
    fields = dict(pairs)
    if len(pairs) != 3 or fields.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(f"{name!r:.80} has not exactly a dtype, a shape and data_offsets")
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        _refuse(f"{name!r:.80} is of the unknown dtype {fields['dtype']!r:.40}")
    shape, offsets = _counts(name, fields["shape"]), _counts(name, fields["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(f"the data_offsets of {name!r:.80} are {offsets!r:.80}")
    elements, unfolded = 1, dtype.itemsize
    for count in shape:
        elements *= count
        unfolded *= max(count, 1)
        if unfolded > _MOST:
            _refuse(f"the shape of {name!r:.80} is beyond what a tensor can have")
    size = offsets[1] - offsets[0]
    if elements * dtype.itemsize != size:
        _refuse(f"{name!r:.80} has {size} bytes, and {shape!r:.80} of {fields['dtype']} differ")
    return Entry(name, dtype, shape, data + offsets[0], size)


def _counts(name: str, value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) > _MOST_DIMENSIONS
        or not all(type(count) is int and 0 <= count <= _MOST for count in value)
    ):
        _refuse(f"the shape or data_offsets of {name!r:.80} are no whole numbers from 0")
    return tuple(value)


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)
