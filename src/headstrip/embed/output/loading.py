"""Files of embeddings, read whole or block by block.

Nothing here imports torch.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.array_file import ArrayProblem, open_array, read_head
from headstrip.embed.output.paths import embeddings_file, is_rows, opened, rows_file
from headstrip.embed.output.table import KEY
from headstrip.errors import HeadstripError, one_line
from headstrip.system import bounded_json
from headstrip.system.memory import memory_limit, shown_bytes

_BLOCK_BYTES = 1 << 21
_BLOCK_ROWS = 1 << 14
_READ_BYTES = 1 << 20
_ROWS_A_BYTE = 64
"""Rows that one byte of a file may stand for: far more than different paths ever come to."""

_WIDEST = 1 << 20
"""Numbers of the widest embedding that is read; the catalogs' widest have some ten thousand."""

_REMEDY = "Name a file that `headstrip embed` wrote."
_LOST = "It belongs beside {path!r}. Restore it, or write both again with --overwrite."
_MEND = (
    "A run was interrupted, or one of the two files was changed or replaced. Run the same "
    "`headstrip embed` line again, which mends it, or restore both files from one copy."
)


def load_embeddings(
    path: str | os.PathLike[str], *, map: bool = False
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Load the paths and the embeddings of a file that ``headstrip embed`` wrote.

    The array is allocated once and filled a block of rows at a time. It is yours: you can change
    it, and save another array under the name of the file.

    Args:
        path: The ``.parquet`` file; or the ``.npy`` file, whose ``.rows.parquet`` is beside it.
        map: Whether to map an ``.npy`` file, read-only, so that only what you look at takes
            memory. Do not write to the file while the array is in use: a mapped file that gets
            shorter ends the process.

    Returns:
        The paths, as ``stored_path`` writes them, in the order of the file; the embeddings, an
        array of shape (rows, dim), float32 or float16 as they are kept, with NaN where there is
        none; and a bool array of shape (rows,), False for an image that could not be embedded.

    Raises:
        HeadstripError: There is no such file, it is damaged, it holds something else, the two
            files of an ``.npy`` do not belong together, there is not enough memory, or ``map`` is
            asked of a Parquet file, which is compressed.

    Example:
        >>> paths, embeddings, ok = load_embeddings("photos.parquet")  # doctest: +SKIP
        >>> embeddings[ok].shape  # doctest: +SKIP
        (2, 1280)
    """
    file = open_embeddings(path)
    if map and file.mapped is None:
        raise HeadstripError(
            f"{str(file.path)!r} is compressed, so map=True cannot map it. Leave out map=True, or "
            "have `headstrip embed` write an .npy file."
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
    """Allocate the array of a file, if there is memory for it."""
    size, limit = file.rows * file.dim * file.dtype.itemsize, memory_limit()
    try:
        if limit is not None and size > limit:
            raise MemoryError
        return np.empty((file.rows, file.dim), file.dtype)
    except (MemoryError, ValueError) as error:
        raise HeadstripError(
            f"{str(file.path)!r} has {file.rows:,} embeddings of {file.dim:,} numbers, which take "
            f"{shown_bytes(size)}, and there is less memory. {_too_large(file)}, or search with "
            "`headstrip neighbors`, which reads a few rows at a time."
        ) from error


def _too_large(file: EmbeddingsFile) -> str:
    """Say how the embeddings of a file can be used that do not fit in memory."""
    if file.mapped is not None:
        return "Pass map=True to load_embeddings"
    return "Write an .npy instead and pass map=True to load_embeddings"


class Block(NamedTuple):
    """Rows of a file that follow each other.

    Attributes:
        start: Number of the first of them.
        paths: Their paths, as pyarrow strings.
        embeddings: Array of shape (rows of the block, dim), NaN where there is none.
        ok: bool array: which of them have an embedding.
    """

    start: int
    paths: Any
    embeddings: np.ndarray
    ok: np.ndarray


@dataclass(frozen=True)
class EmbeddingsFile:
    """A file of embeddings whose head was read.

    Attributes:
        path: The file, as it was named.
        rows: Number of images.
        dim: Width of an embedding.
        dtype: float32 or float16.
        metadata: What the file says of itself: plain JSON values, empty where it says nothing.
        mapped: The array of an ``.npy`` file, None of a Parquet file.
    """

    path: Path
    rows: int
    dim: int
    dtype: np.dtype[Any]
    metadata: dict[str, Any] = field(repr=False)
    mapped: np.ndarray | None = field(repr=False)

    def blocks(self, into: np.ndarray | None = None) -> Iterator[Block]:
        """Yield all rows, a block that fits in 2 MiB at a time.

        Args:
            into: Array of shape (rows, dim) that the embeddings are put into; without one each
                block has its own.

        Raises:
            HeadstripError: The file is damaged.
        """
        size = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (self.dim * self.dtype.itemsize)))
        columns = ["path", "embedding" if self.mapped is None else "error"]
        start = 0
        table = rows_file(self.path)
        with _problems(table), _opened(table) as file:
            if _metadata(table, file.schema_arrow) != self.metadata:
                raise ValueError("it was replaced while it was read")
            for batch in file.iter_batches(size, columns=columns, use_threads=False):
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
                start = stop
            if start != self.rows:
                raise ValueError(f"it has {start} rows, and its footer says {self.rows}")


def open_embeddings(path: str | os.PathLike[str]) -> EmbeddingsFile:
    """Read the head of a file of embeddings, and none of its rows.

    Raises:
        HeadstripError: There is no such file, it is damaged, or it holds something else.
    """
    place = Path(path)
    table, is_array = rows_file(place), place.suffix == ".npy"
    # Unlike Path.exists, this takes a name that is too long.
    is_half = table != place and os.path.exists(table)
    _check_there(place, remedy=_MEND if is_half else "Check the path.")
    if is_array:
        with _array_problems(place, _REMEDY), open(place, "rb") as array:
            read_head(array)
        _check_there(table, remedy=_LOST.format(path=str(place)))
    with _problems(table), _opened(table) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    _check_rows(table, rows)
    _check_columns(table, schema, ["path", "error" if is_array else "embedding"])
    metadata = _metadata(table, schema)
    if is_array:
        mapped = _mapped(place, table, rows, metadata)
        return EmbeddingsFile(place, rows, mapped.shape[1], mapped.dtype, metadata, mapped)
    kind = _kind(place, schema)
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    return EmbeddingsFile(place, rows, kind.list_size, dtype, metadata, None)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file so that a row group is read page by page, however large it is."""
    with (
        opened(path) as source,
        pq.ParquetFile(
            source, pre_buffer=False, buffer_size=_READ_BYTES, page_checksum_verification=True
        ) as file,
    ):
        yield file


@contextmanager
def _problems(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into a sentence."""
    try:
        yield
    except ArrayProblem:
        raise
    except (OSError, pa.ArrowException, ValueError, EOFError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200].rstrip(".")
        raise HeadstripError(
            f"{str(path)!r} cannot be read as a file of embeddings ({reason}). {_REMEDY}"
        ) from error


def _check_there(file: Path, remedy: str) -> None:
    """Refuse what is not a file, before it is opened."""
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


def _mapped(path: Path, table: Path, rows: int, metadata: dict[str, Any]) -> np.ndarray:
    """Map an array that was checked against its rows."""
    described = metadata.get(ARRAY)
    with _array_problems(path, _REMEDY if described is None else _MEND), open(path, "rb") as file:
        return open_array(file, str(table), rows, described)


@contextmanager
def _array_problems(path: Path, remedy: str) -> Iterator[None]:
    try:
        with _problems(path):
            yield
    except ArrayProblem as error:
        raise HeadstripError(
            f"{str(path)!r} cannot be read as a file of embeddings: it {error}. {remedy}"
        ) from error


def _check_columns(path: Path, schema: pa.Schema, names: list[str]) -> None:
    missing = [name for name in names if schema.get_field_index(name) < 0]
    if missing == ["embedding"] and is_rows(path):
        raise HeadstripError(
            f"{str(path)!r} belongs to {str(embeddings_file(path))!r}. Name that one."
        )
    if missing:
        raise HeadstripError(
            f"{str(path)!r} has no column {missing[0]!r}, so it is no file of embeddings. {_REMEDY}"
        )
    if schema.field("path").type not in (pa.string(), pa.large_string()):
        raise HeadstripError(
            f"The column 'path' of {str(path)!r} is {schema.field('path').type}, and has to be "
            f"string. {_REMEDY}"
        )


def _check_rows(table: Path, rows: int) -> None:
    """Refuse rows without end: repeated ones take no room in a file, and all time to be read."""
    size = table.stat().st_size
    if rows > _ROWS_A_BYTE * size:
        raise HeadstripError(
            f"{str(table)!r} says that it has {rows:,} rows in {size:,} bytes, which no run "
            f"writes. {_REMEDY}"
        )


def _kind(path: Path, schema: pa.Schema) -> pa.FixedSizeListType:
    kind = schema.field("embedding").type
    if (
        not pa.types.is_fixed_size_list(kind)
        or kind.value_type not in (pa.float32(), pa.float16())
        or not 0 < kind.list_size <= _WIDEST
    ):
        raise HeadstripError(
            f"The column 'embedding' of {str(path)!r} is {kind}, and has to be a list of float32 "
            f"or float16 of a fixed size, up to {_WIDEST}. {_REMEDY}"
        )
    return kind


def _metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        return {}
    with _problems(path):
        found = bounded_json.parse(text, "the JSON in its metadata")
        if not isinstance(found, dict):
            raise ValueError("its metadata are no object")
    return found


def _fill(column: pa.FixedSizeListArray, out: np.ndarray) -> np.ndarray:
    """Put a column into ``out``, NaN for null, and return which rows are not null."""
    ok = _flags(column.is_valid())
    # `flatten` leaves out the null ones; where there are none it copies nothing.
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, out.shape[1])
    if len(values) == len(out):
        out[:] = values
    else:
        out[ok], out[~ok] = values, np.nan
    return ok


def _checked(paths: pa.Array) -> pa.Array:
    """Return paths that are text, each of them."""
    paths.validate(full=True)
    if paths.null_count:
        raise ValueError("a path is null")
    return paths


def _flags(column: pa.BooleanArray) -> np.ndarray:
    flags: np.ndarray = column.to_numpy(zero_copy_only=False)
    return flags
