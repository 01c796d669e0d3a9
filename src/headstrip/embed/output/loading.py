"""Reads files of embeddings, whole or block by block.

This module does not import torch.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.array_file import ArrayProblem, open_array, read_header
from headstrip.embed.output.damage import ROWS, parquet_file, surplus
from headstrip.embed.output.paths import embeddings_file, is_rows, rows_file
from headstrip.embed.output.table import KEY
from headstrip.errors import HeadstripError, HeadstripWarning, OptionError, one_line
from headstrip.system import bounded_json
from headstrip.system.arguments import check_path, shown
from headstrip.system.memory import memory_limit, shown_bytes

_BLOCK_BYTES = 1 << 21
_BLOCK_ROWS = 1 << 14
_ROWS_PER_BYTE = 64
"""Most rows per byte of a file: far more than a file with different paths can have."""

_MAX_DIM = 1 << 20
"""Largest width of an embedding that is read; in the catalogs it is some ten thousand."""

_REMEDY = "Pass a file that `headstrip embed` wrote."
_MISSING = "It belongs beside {path!r}. Restore it, or write both again with --overwrite."
_REPAIR = (
    "A run was interrupted, or one of the two files was changed or replaced. Run the same "
    "`headstrip embed` line again, which repairs it, or restore both files from one copy."
)


def load_embeddings(
    path: str | os.PathLike[str], *, map: bool = False
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Load the paths and the embeddings of a file that ``headstrip embed`` wrote.

    The array is allocated once and filled block by block. You may change it, and save another
    array under the name of the file.

    Args:
        path: The ``.parquet`` file; or the ``.npy`` file, whose ``.rows.parquet`` is beside it.
        map: Whether to map an ``.npy`` file, read-only, so that only the rows you use take memory.
            Do not write to the file while the array is in use: the operating system ends a process
            whose mapped file gets shorter.

    Returns:
        The paths, as ``stored_path`` writes them, in the order of the file; the embeddings, an
        array of shape (rows, dim), float32 or float16 as in the file, with NaN for a bad image;
        and a bool array of shape (rows,), False for a bad image.

    Raises:
        HeadstripError: The file does not exist, is damaged or contains something else, the two
            files of an ``.npy`` do not belong together, there is not enough memory, or ``map`` is
            True for a Parquet file, which is compressed.
        OptionError: ``path`` is not a path, or ``map`` neither True nor False.

    Example:
        >>> paths, embeddings, ok = load_embeddings("photos.parquet")  # doctest: +SKIP
        >>> embeddings[ok].shape  # doctest: +SKIP
        (2, 1280)
    """
    if map not in (True, False):
        raise OptionError(f"map must be True or False, got {shown(map)}. Pass one of them.")
    file = open_embeddings(path)
    if map and file.mapped is None:
        raise HeadstripError(
            f"{str(file.path)!r} is compressed, so map=True cannot map it. Leave out map=True, or "
            "write an .npy file with `headstrip embed`."
        )
    array = file.mapped if map and file.mapped is not None else _allocated(file)
    ok = np.empty(file.rows, bool)
    paths: list[str] = []
    for block in file.blocks(into=array):
        rows = slice(block.start, block.start + len(block.ok))
        ok[rows] = block.ok
        if file.mapped is not None and not map:
            array[rows] = block.embeddings
        paths += block.paths.to_pylist()
    return paths, array, ok


def _allocated(file: EmbeddingsFile) -> np.ndarray:
    """Allocate the array of a file, if there is enough memory."""
    size, limit = file.rows * file.dim * file.dtype.itemsize, memory_limit()
    try:
        if limit is not None and size > limit:
            raise MemoryError
        return np.empty((file.rows, file.dim), file.dtype)
    except (MemoryError, ValueError) as error:
        how = "Pass" if file.mapped is not None else "Write an .npy instead and pass"
        raise HeadstripError(
            f"{str(file.path)!r} has {file.rows:,} embeddings of {file.dim:,} numbers, which take "
            f"{shown_bytes(size)}, and there is less memory. {how} map=True to load_embeddings, or "
            "search with `headstrip neighbors`, which reads a few rows at a time."
        ) from error


class Block(NamedTuple):
    """Consecutive rows of a file.

    Attributes:
        start: Number of the first row.
        paths: Their paths, as pyarrow strings.
        embeddings: Array of shape (rows of the block, dim), NaN for a bad image.
        ok: bool array of shape (rows of the block,): which rows have an embedding.
    """

    start: int
    paths: Any
    embeddings: np.ndarray
    ok: np.ndarray


@dataclass(frozen=True)
class EmbeddingsFile:
    """A file of embeddings, of which only the footer or header was read.

    Attributes:
        path: The file, as the caller named it.
        rows: Number of images.
        groups: Number of row groups.
        dim: Width of an embedding.
        dtype: float32 or float16.
        metadata: The metadata of the file: plain JSON values, empty if it has none.
        mapped: The array of an ``.npy`` file, None for a Parquet file.
    """

    path: Path
    rows: int
    groups: int
    dim: int
    dtype: np.dtype[Any]
    metadata: dict[str, Any] = field(repr=False)
    mapped: np.ndarray | None = field(repr=False)

    def blocks(
        self, into: np.ndarray | None = None, groups: Sequence[int] | None = None
    ) -> Iterator[Block]:
        """Yield all rows in blocks of up to 2 MiB.

        Args:
            into: Array of shape (rows, dim) to write the embeddings to; without one each block has
                a new array.
            groups: Numbers of row groups to read, in this order; by default all.

        Raises:
            HeadstripError: The file is damaged.
        """
        size = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (self.dim * self.dtype.itemsize)))
        columns = ["path", "embedding" if self.mapped is None else "error"]
        count, table = 0, rows_file(self.path)
        with _problems(table), parquet_file(table) as file:
            if _metadata(table, file.schema_arrow) != self.metadata:
                raise ValueError("it was replaced while it was read")
            sizes = [file.metadata.row_group(one).num_rows for one in range(self.groups)]
            starts = [0, *accumulate(sizes)]
            chosen = range(self.groups) if groups is None else groups
            for group in chosen:
                start = starts[group]
                for batch in file.iter_batches(size, [group], columns, use_threads=False):
                    stop = start + len(batch)
                    if self.mapped is None:
                        out = np.empty((len(batch), self.dim), self.dtype)
                        out = out if into is None else into[start:stop]
                        ok = _fill(batch["embedding"], out)
                    else:
                        out, ok = self.mapped[start:stop], _flags(batch["error"].is_null())
                    if stop > self.rows:
                        raise ValueError("it has more rows than its footer says")
                    yield Block(start, _checked(batch["path"]), out, ok)
                    start, count = stop, count + len(batch)
            if groups is None and count != self.rows:
                raise ValueError(f"it has {count} rows, and its footer says {self.rows}")


def open_embeddings(path: str | os.PathLike[str]) -> EmbeddingsFile:
    """Read the footer or header of a file of embeddings, and none of its rows.

    Raises:
        HeadstripError: The file does not exist, is damaged, contains something else, or has more
            rows than headstrip wrote.
        OptionError: ``path`` is not a path.
    """
    check_path("path", path, "photos.parquet")
    file_path = Path(path)
    table, is_array = rows_file(file_path), file_path.suffix == ".npy"
    # Unlike Path.exists, os.path.exists accepts a name that is too long.
    has_rows = is_array and os.path.exists(table)
    _check_file(file_path, remedy=_REPAIR if has_rows else "Check the path.")
    if is_array:
        with _problems(file_path), open(file_path, "rb") as array:
            read_header(array)
        _check_file(table, remedy=_MISSING.format(path=str(file_path)))
    with _problems(table), parquet_file(table) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        groups = file.metadata.num_row_groups
    _check_rows(table, rows)
    _check_columns(table, schema, ["path", "error" if is_array else "embedding"])
    metadata = _metadata(table, schema)
    _check_count(file_path, metadata, rows)
    if is_array:
        mapped = _map_array(file_path, table, rows, metadata)
        dim = mapped.shape[1]
        return EmbeddingsFile(file_path, rows, groups, dim, mapped.dtype, metadata, mapped)
    kind = _embedding_type(file_path, schema)
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    return EmbeddingsFile(file_path, rows, groups, kind.list_size, dtype, metadata, None)


@contextmanager
def _problems(path: Path, array_remedy: str = _REMEDY) -> Iterator[None]:
    """Raise a HeadstripError with the cause when a file cannot be read.

    Args:
        path: The file.
        array_remedy: What to do about an array that is not that of its rows.
    """
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, EOFError) as error:
        if isinstance(error, ArrayProblem):
            reason, remedy = f"it {error}", array_remedy
        else:
            text = str(getattr(error, "strerror", None) or error)
            reason, remedy = " ".join(text.split())[:200].rstrip("."), _REMEDY
        raise HeadstripError(
            f"{str(path)!r} cannot be read as a file of embeddings ({reason}). {remedy}"
        ) from error


def _check_file(file: Path, remedy: str) -> None:
    """Refuse what is not a regular file, before it is opened."""
    try:
        mode = os.stat(file).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HeadstripError(f"There is no file {str(file)!r}. {remedy}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise HeadstripError(f"{str(file)!r} cannot be read ({reason}). Check the path.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise HeadstripError(f"{str(file)!r} is {kind}. {_REMEDY}")


def _map_array(path: Path, table: Path, rows: int, metadata: dict[str, Any]) -> np.ndarray:
    """Compare an array with the description in its rows, and map it."""
    described = metadata.get(ARRAY)
    remedy = _REMEDY if described is None else _REPAIR
    with _problems(path, remedy), open(path, "rb") as file:
        return open_array(file, str(table), rows, described)


def _check_columns(path: Path, schema: pa.Schema, names: list[str]) -> None:
    missing = [name for name in names if schema.get_field_index(name) < 0]
    if missing == ["embedding"] and is_rows(path):
        raise HeadstripError(
            f"{str(path)!r} belongs to {str(embeddings_file(path))!r}. Name that file instead."
        )
    if missing:
        raise HeadstripError(
            f"{str(path)!r} has no column {missing[0]!r}, so it is not a file of embeddings. "
            f"{_REMEDY}"
        )
    if schema.field("path").type not in (pa.string(), pa.large_string()):
        raise HeadstripError(
            f"The column 'path' of {str(path)!r} is {schema.field('path').type}, and must be "
            f"string. {_REMEDY}"
        )


def _check_rows(table: Path, rows: int) -> None:
    """Refuse a small file of very many equal rows, which would take hours to read."""
    size = table.stat().st_size
    if rows > _ROWS_PER_BYTE * size:
        raise HeadstripError(
            f"{str(table)!r} claims {rows:,} rows in {size:,} bytes, and headstrip writes no such "
            f"file. {_REMEDY}"
        )


def _check_count(path: Path, metadata: dict[str, Any], rows: int) -> None:
    """Refuse more rows than headstrip wrote, and warn of fewer."""
    if problem := surplus(metadata, rows):
        raise HeadstripError(
            f"{str(path)!r} {problem}, and its metadata name the encoder of the first only. Pass "
            "one of these files, or embed all images into one file."
        )
    if isinstance(written := metadata.get(ROWS), int) and rows < written:
        warnings.warn(
            f"{str(path)!r} has {rows:,} of the {written:,} rows that headstrip wrote. If you did "
            "not remove the others, restore the file.",
            HeadstripWarning,
            # One place for all callers: Python prints it once, however often a file is opened.
            stacklevel=2,
        )


def _embedding_type(path: Path, schema: pa.Schema) -> pa.FixedSizeListType:
    kind = schema.field("embedding").type
    if (
        not pa.types.is_fixed_size_list(kind)
        or kind.value_type not in (pa.float32(), pa.float16())
        or not 0 < kind.list_size <= _MAX_DIM
    ):
        raise HeadstripError(
            f"The column 'embedding' of {str(path)!r} is {kind}, and must be a list of float32 "
            f"or float16 of a fixed size, up to {_MAX_DIM}. {_REMEDY}"
        )
    return kind


def _metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        return {}
    with _problems(path):
        found = bounded_json.parse(text, "the JSON in its metadata")
        if not isinstance(found, dict):
            raise ValueError("its metadata are not a JSON object")
    return found


def _fill(column: pa.FixedSizeListArray, out: np.ndarray) -> np.ndarray:
    """Write a column to ``out``, NaN for null, and return which rows are not null."""
    ok = _flags(column.is_valid())
    # `flatten` leaves out null rows; without any it copies nothing.
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, out.shape[1])
    if len(values) == len(out):
        out[:] = values
    else:
        out[ok], out[~ok] = values, np.nan
    return ok


def _checked(paths: pa.Array) -> pa.Array:
    """Return the paths after checking that each is valid text."""
    paths.validate(full=True)
    if paths.null_count:
        raise ValueError("a path is null")
    return paths


def _flags(column: pa.BooleanArray) -> np.ndarray:
    flags: np.ndarray = column.to_numpy(zero_copy_only=False)
    return flags
