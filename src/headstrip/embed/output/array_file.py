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
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

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


class Header(NamedTuple):
    """The header of an ``.npy`` file.

    Attributes:
        dtype: As numpy writes it: ``<f4`` or ``<f2``.
        shape: (rows, dim).
        offset: Byte at which the values start.
    """

    dtype: str
    shape: tuple[int, int]
    offset: int


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
        return _description(self._sha256.hexdigest(), self._dtype.str, self._shape)

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
    dtype, shape, offset = check_array(file, beside, rows, described)
    if not rows:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", offset, shape)


def check_array(file: BinaryIO, beside: str, rows: int, described: Any) -> Header:
    """Check that a file is the array of its rows without mapping it; see ``open_array``."""
    header = dtype, shape, offset = read_header(file)
    if shape[0] != rows:
        raise ArrayProblem(
            f"has {shape[0]} rows, and {beside!r} has {rows}: two different runs wrote them"
        )
    size = offset + rows * shape[1] * np.dtype(dtype).itemsize
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise ArrayProblem(f"has {found} bytes, and its header requires {size}")
    if described is not None and described != _description(_sha256_of(file), dtype, shape):
        raise ArrayProblem(
            f"is not the array that {beside!r} was written with: its bytes, its dtype or its "
            "shape differ"
        )
    return header


def read_header(file: BinaryIO) -> Header:
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
        kind: Any = descr
        with suppress(TypeError):
            kind = np.dtype(descr)
        raise ArrayProblem(
            f"contains {kind} of shape {shape} in order of {layout}, and not embeddings"
        )
    return Header(descr, (shape[0], shape[1]), len(start) + length)


def read_rows(path: str | os.PathLike[str], start: int, stop: int) -> np.ndarray:
    """Read some rows into memory, of an array that ``open_array`` accepted.

    Raises:
        ArrayProblem: The file is damaged.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        dtype, (_, dim), offset = read_header(file)
        size = dim * np.dtype(dtype).itemsize
        file.seek(offset + start * size)
        data = file.read((stop - start) * size)
    if len(data) != (stop - start) * size:
        raise ArrayProblem("is too short")
    return np.frombuffer(data, dtype).reshape(stop - start, dim)


def _description(sha256: str, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {"sha256": sha256, "shape": list(shape), "dtype": dtype}


def _sha256_of(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while data := file.read(_AT_ONCE):
        digest.update(data)
    return digest.hexdigest()
