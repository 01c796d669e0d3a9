"""Read and write safetensors: the length of the header, the header in JSON, then the tensors.

headstrip reads these files itself for three reasons. The library of the format opens a file by its
name, which may belong to another file by then. It accepts one tensor twice. It needs unlimited
memory for a hostile header.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

import torch
from torch import Tensor

from headstrip.network.assigning import ALIGNMENT
from headstrip.weights.mapping import map_file
from headstrip.weights.problems import damaged, too_large

PAD = "__pad_"
"""Prefix of the names of tensors that only fill the gap after another tensor."""

_LENGTH = 8
_LONGEST_HEADER = 100_000_000
_MOST_VALUES = 1 << 20
_MOST_DIMENSIONS = 64
_MOST = (1 << 63) - 1
# Threads can share a file with preadv, because it does not move the position in the file.
_READS_AT = hasattr(os, "preadv")
_THREADS = min(4, os.cpu_count() or 1) if _READS_AT else 1

DTYPES = {
    name: getattr(torch, attribute)
    for name, attribute in {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
    }.items()
    if hasattr(torch, attribute)
}
"""torch's dtypes by their names in the format."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a header.

    Attributes:
        name: The name of the tensor.
        dtype: The dtype of the tensor.
        shape: The shape of the tensor.
        start: The position of its first byte in the file.
        size: The number of its bytes.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors in the order of their bytes in the file, and the metadata."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]


def read_safetensors(
    path: Path, file: BinaryIO, size: int, *, mapped: bool, limit: int | None
) -> tuple[dict[str, Tensor], dict[str, str], int]:
    """Read an open file.

    Returns:
        The tensors, each in a separate storage, the metadata, and the number of mapped bytes.

    Raises:
        WeightsError: The header is damaged, or the tensors have more bytes than ``limit``.
    """
    header = read_header(path, file, size)
    total = sum(entry.size for entry in header.entries)
    if limit is not None and total > limit:
        raise too_large(path, total, limit)
    storage = map_file(file) if mapped else None
    aligned = [
        entry for entry in header.entries if storage is not None and entry.start % ALIGNMENT == 0
    ]
    mapped_names = {entry.name for entry in aligned}
    others = [entry for entry in header.entries if entry.name not in mapped_names]
    parts = read_parts(file, [(entry.start, entry.size) for entry in others])
    tensors = {entry.name: _tensor(part, entry) for entry, part in zip(others, parts, strict=True)}
    if storage is not None:
        for entry in aligned:
            part = storage[entry.start : entry.start + entry.size]
            tensors[entry.name] = _tensor(part, entry)
    return tensors, header.metadata, sum(entry.size for entry in aligned)


def _tensor(storage: torch.UntypedStorage, entry: Entry) -> Tensor:
    strides = [
        math.prod(max(n, 1) for n in entry.shape[at + 1 :]) for at in range(len(entry.shape))
    ]
    return torch.empty(0, dtype=entry.dtype, device="cpu").set_(storage, 0, entry.shape, strides)


class Writable(Protocol):
    """An object that accepts bytes, such as a file or a hash."""

    def write(self, data: bytes, /) -> object:
        """Accept bytes."""


def write_safetensors(
    file: Writable,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    alignment: int = 1,
) -> None:
    """Write tensors from any device in the order of the mapping. Equal content gives equal bytes.

    Args:
        file: Where to write.
        tensors: The tensors by name.
        metadata: The metadata of the file.
        alignment: Start each tensor at a multiple of this number of bytes. The gaps contain tensors
            whose names begin with `PAD`, because the format does not allow gaps.

    Raises:
        ValueError: The format has no name for the dtype of a tensor.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES or tensor.layout is not torch.strided:
            raise ValueError(f"{name!r:.80} is a tensor of {tensor.dtype}, {tensor.layout}")
        end = position + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end + -end % alignment
        if position != end:
            header[f"{PAD}{len(header)}"] = {
                "dtype": "U8",
                "shape": [position - end],
                "data_offsets": [end, position],
            }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH + len(text)) % max(alignment, _LENGTH))
    file.write(len(text).to_bytes(_LENGTH, "little") + text)
    for tensor in tensors.values():
        file.write(bytes_of(tensor) + bytes(-tensor.nbytes % alignment))


def bytes_of(tensor: Tensor) -> bytes:
    """Return the values of a tensor as the bytes that the format stores."""
    data = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # A tensor with one element counts as contiguous with any strides.
    flat = data.as_strided((data.numel(),), (1,))
    # torch cannot view an empty tensor as bytes.
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def read_parts(file: BinaryIO, places: Sequence[tuple[int, int]]) -> list[torch.UntypedStorage]:
    """Read parts of an open file, each into memory that starts at a multiple of 64 bytes.

    Each part has separate memory, so that torch can free it separately.

    Args:
        file: The open file.
        places: The start and the number of bytes of each part.

    Raises:
        ValueError: The file ends before the end of a part.
    """
    parts = [torch.empty(size, dtype=torch.uint8, device="cpu") for _, size in places]
    starts = [start for start, _ in places]
    with ThreadPoolExecutor(_THREADS) as threads:
        views = (part.numpy().data for part in parts)
        list(threads.map(partial(_read_at, file), starts, views))
    return [part.untyped_storage() for part in parts]


def _read_at(file: BinaryIO, start: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        if _READS_AT:
            count = os.preadv(file.fileno(), [view[done:]], start + done)
        else:
            file.seek(start + done)
            count = file.readinto(view[done:])  # type: ignore[attr-defined]  # buffered files do
        if not count:
            raise ValueError("its last tensor is incomplete")
        done += count


def read_header(path: Path, file: BinaryIO, size: int) -> Header:
    """Read and check the header of a file.

    Args:
        path: The path of the file, for messages.
        file: The open file.
        size: The size of the file in bytes.

    Raises:
        WeightsError: The header is damaged: it is not JSON with the right structure, it names a
            tensor twice, tensors overlap or have gaps between them, or the file has bytes that
            belong to no tensor.
    """
    try:
        return _read_header(file, size)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its safetensors header is wrong: {error}") from None


def _read_header(file: BinaryIO, size: int) -> Header:
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH), "little")
    if size < _LENGTH or length > min(size - _LENGTH, _LONGEST_HEADER):
        _refuse(f"it claims {length} bytes, but the file has {size}")
    encoded = file.read(length)
    if len(encoded) != length:
        _refuse("the file ends inside the header")
    content = _parse(encoded.decode("utf-8"))
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        _refuse("its metadata must be an object of strings")
    position = _LENGTH + length
    entries = [_entry(name, fields, position) for name, fields in content.items()]
    entries.sort(key=lambda entry: (entry.start, entry.size))
    for entry in entries:
        if entry.start != position:
            _refuse(f"the tensor {entry.name!r:.80} does not start where the one before it ends")
        position += entry.size
    if position != size:
        _refuse(f"its tensors end at byte {position}, but the file has {size} bytes")
    return Header(tuple(entries), metadata)


def _parse(text: str) -> dict[str, Any]:
    """Parse the JSON of a header. Refuse it first if it would need too much memory."""
    if not text.startswith("{"):
        _refuse("it must begin with '{'")
    if sum(map(text.count, ",:[{")) > _MOST_VALUES:
        _refuse(f"it has more than {_MOST_VALUES:,} values")
    content: dict[str, Any] = json.loads(
        text, object_pairs_hook=_object, parse_constant=lambda name: _refuse(f"{name} is not JSON")
    )
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        # This raises a UnicodeEncodeError for half of a surrogate pair.
        name.encode()
        if name in found:
            _refuse(f"it names {name!r:.80} twice")
        found[name] = value
    return found


def _entry(name: str, fields: Any, data: int) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(f"the tensor {name!r:.80} must have exactly a dtype, a shape and data_offsets")
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        _refuse(f"the tensor {name!r:.80} has the unknown dtype {fields['dtype']!r:.40}")
    shape, offsets = _integers(name, fields["shape"]), _integers(name, fields["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(f"the data_offsets of {name!r:.80} are {offsets!r:.80}")
    if math.prod(max(count, 1) for count in shape) * dtype.itemsize > _MOST:
        _refuse(f"the shape of {name!r:.80} has more bytes than a tensor can have")
    size = offsets[1] - offsets[0]
    if math.prod(shape) * dtype.itemsize != size:
        _refuse(
            f"{name!r:.80} has {size} bytes, which do not fit the shape {shape!r:.80} of "
            f"{fields['dtype']}"
        )
    return Entry(name, dtype, shape, data + offsets[0], size)


def _integers(name: str, value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) > _MOST_DIMENSIONS
        or not all(type(count) is int and 0 <= count <= _MOST for count in value)
    ):
        _refuse(
            f"the shape and the data_offsets of {name!r:.80} must be lists of at most "
            f"{_MOST_DIMENSIONS} integers that are not negative"
        )
    return tuple(value)


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)
