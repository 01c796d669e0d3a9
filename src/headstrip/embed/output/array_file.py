"""The ``.npy`` file of embeddings: one strict layout, with its checksum in the file of rows.

The metadata of the rows contain, under ``array``, the shape, the dtype and the sha256 of the whole
``.npy`` file. They reveal two files of different runs, and every changed byte.
This module does not import torch.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

KEY = "array"
"""Key of the description of the array, in the metadata of the rows."""

_MAGIC = b"\x93NUMPY\x01\x00"
_LARGEST_HEADER = 1 << 12
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z]\d{1,2})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)
_DTYPES = ("<f4", "<f2")
_AT_ONCE = 1 << 20


class ArrayProblem(ValueError):
    """Why a file is not the array of its rows: a clause that continues the name of the file."""


@dataclass(frozen=True, slots=True)
class Head:
    """The header of an ``.npy`` file.

    Attributes:
        dtype: As numpy writes it: ``<f4`` or ``<f2``.
        shape: (rows, dim).
        offset: Byte at which the values start.
    """

    dtype: str
    shape: tuple[int, int]
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        rows, dim = self.shape
        return self.offset + rows * dim * np.dtype(self.dtype).itemsize


class ArrayWriter:
    """Writes an array of embeddings block by block, and computes its checksum."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
        """Write the header.

        Args:
            file: Open for writing, empty.
            dtype: float32 or float16.
            shape: (rows, dim) of the whole array.
        """
        self._dtype, self._shape = dtype.newbyteorder("<"), shape
        self._sha256 = hashlib.sha256()
        self._file = file
        fields = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, fields)
        self._put(header.getvalue())

    def write(self, block: np.ndarray) -> None:
        """Write rows: an array of shape (any number of rows, dim)."""
        self._put(np.ascontiguousarray(block, self._dtype).tobytes())

    def description(self) -> dict[str, Any]:
        """Return the entry for the metadata of the rows, after the last block."""
        return {
            "sha256": self._sha256.hexdigest(),
            "shape": list(self._shape),
            "dtype": self._dtype.str,
        }

    def _put(self, data: bytes) -> None:
        self._sha256.update(data)
        self._file.write(data)


def open_array(file: BinaryIO, beside: str, rows: int, described: Any) -> np.ndarray:
    """Check that a file is the array of its rows, and map it.

    Args:
        file: The ``.npy`` file, open for reading; it may be closed afterwards.
        beside: Name of the file of rows, for error messages.
        rows: Number of rows in that file.
        described: The entry ``KEY`` of their metadata; None for files of an earlier headstrip, of
            which only the header and the size are checked.

    Returns:
        Read-only array of shape (rows, dim), float32 or float16.

    Raises:
        ArrayProblem: It is another file, or was changed.
        OSError: It cannot be read.
    """
    head = check_array(file, beside, rows, described)
    if not rows:
        return np.empty(head.shape, head.dtype)
    return np.memmap(file, head.dtype, "r", head.offset, head.shape)


def check_array(file: BinaryIO, beside: str, rows: int, described: Any) -> Head:
    """Check that a file is the array of its rows; see ``open_array``."""
    head = read_head(file)
    if head.shape[0] != rows:
        raise ArrayProblem(
            f"has {head.shape[0]} rows, and {beside!r} has {rows}: two different runs wrote them"
        )
    found = os.fstat(file.fileno()).st_size
    if found != head.size:
        raise ArrayProblem(f"has {found} bytes, and its header requires {head.size}")
    if described is None:
        return head
    expected = _expected(described, beside)
    if (list(head.shape), head.dtype) != (expected["shape"], expected["dtype"]):
        raise ArrayProblem(
            f"contains {head.dtype} of shape {head.shape}, and {beside!r} describes "
            f"{expected['dtype']} of shape {tuple(expected['shape'])}"
        )
    if _sha256_of(file) != expected["sha256"]:
        raise ArrayProblem(f"is not the array that {beside!r} was written with: the bytes differ")
    return head


def read_head(file: BinaryIO) -> Head:
    """Read the header of an ``.npy`` file.

    The parser of numpy accepts more layouts, and raises exceptions of any type.

    Raises:
        ArrayProblem: It is not the header of an array of embeddings.
        OSError: The file cannot be read.
    """
    file.seek(0)
    start = file.read(len(_MAGIC) + 2)
    length = int.from_bytes(start[-2:], "little")
    if start[:-2] != _MAGIC or length > _LARGEST_HEADER:
        raise ArrayProblem("does not start like an .npy file")
    text = file.read(length)
    match = _HEADER.fullmatch(text)
    if match is None or len(text) != length:
        raise ArrayProblem("has a damaged header, or one that headstrip does not write")
    descr, order = match[1].decode(), match[2].decode()
    shape = tuple(int(number) for number in match[3].split(b",") if number.strip())
    if descr not in _DTYPES or order != "False" or len(shape) != 2 or not shape[1]:
        layout = "columns" if order == "True" else "rows"
        raise ArrayProblem(
            f"contains {_kind(descr)} of shape {shape} in order of {layout}, and not embeddings"
        )
    return Head(descr, (shape[0], shape[1]), len(start) + length)


def read_rows(path: str | os.PathLike[str], start: int, stop: int) -> np.ndarray:
    """Read some rows into memory, of an array that ``check_array`` accepted.

    Raises:
        ArrayProblem: The file is damaged.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        head = read_head(file)
        dim, size = head.shape[1], np.dtype(head.dtype).itemsize
        file.seek(head.offset + start * dim * size)
        data = file.read((stop - start) * dim * size)
    if len(data) != (stop - start) * dim * size:
        raise ArrayProblem("is too short")
    return np.frombuffer(data, head.dtype).reshape(stop - start, dim)


def _expected(described: Any, beside: str) -> Mapping[str, Any]:
    """Return a description of the array after checking its form."""
    is_ours = (
        isinstance(described, Mapping)
        and isinstance(described.get("sha256"), str)
        and re.fullmatch(r"[0-9a-f]{64}", described["sha256"])
        and isinstance(described.get("shape"), list)
        and isinstance(described.get("dtype"), str)
    )
    if not is_ours:
        raise ArrayProblem(f"cannot be checked: {beside!r} describes it in an unknown form")
    found: Mapping[str, Any] = described
    return found


def _sha256_of(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while data := file.read(_AT_ONCE):
        digest.update(data)
    return digest.hexdigest()


def _kind(descr: str) -> str:
    try:
        return str(np.dtype(descr))
    except TypeError:
        return descr
