"""Tells damaged files from files that cannot be read right now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.array_file import ArrayProblem, check_array
from headstrip.embed.output.paths import open_for_arrow, rows_file
from headstrip.errors import HeadstripError, one_line

ROWS = "rows"
"""Key of the number of rows, in the metadata of a finished file."""

_READ_BYTES = 1 << 20


class DamagedFile(HeadstripError):
    """The bytes of a file were read and are not those of a whole Parquet file."""


@contextmanager
def damage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``DamagedFile`` when pyarrow can read the bytes of a file and cannot parse them.

    When the system refuses to read (no permission, no file handle, a failing disk, no memory), the
    file may be whole: that error stays what it is.

    Raises:
        DamagedFile: The file is damaged.
    """
    try:
        yield
    except MemoryError:
        # pyarrow's own MemoryError is an ArrowException as well.
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        # An OSError of the system has a number; one that the Parquet reader raises has none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(
            f"{os.fspath(path)!r} is damaged ({one_line(error, 200)}). Remove it, and "
            "run the same `headstrip embed` line again."
        ) from error


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of this package as ``parquet_file`` does.

    Raises:
        DamagedFile: The file is damaged.
        OSError: It does not exist, or cannot be read now.
    """
    with damage_errors(path), parquet_file(path) as file:
        yield file


@contextmanager
def parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; reading verifies the checksum of each page.

    Even a large row group is read page by page.
    """
    with (
        open_for_arrow(path) as source,
        pq.ParquetFile(
            source, pre_buffer=False, buffer_size=_READ_BYTES, page_checksum_verification=True
        ) as file,
    ):
        yield file


def table_problem(table: Path) -> str | None:
    """Read all pages of a Parquet file; return what is wrong with it, or None.

    Raises:
        OSError: The file cannot be read now.
    """
    try:
        with open_parquet(table) as file:
            for number in range(file.metadata.num_row_groups):
                file.read_row_group(number)
    except (FileNotFoundError, DamagedFile):
        return "is damaged"
    return None


def rows_in(table: Path) -> int | None:
    """Return the number of rows that a Parquet file states; None if it is damaged or missing."""
    try:
        with open_parquet(table) as file:
            return int(file.metadata.num_rows)
    except (FileNotFoundError, DamagedFile):
        return None


def surplus(metadata: Mapping[str, Any], rows: int) -> str | None:
    """Return what is wrong with a file that has more rows than headstrip wrote, else None."""
    written = metadata.get(ROWS)
    if not isinstance(written, int) or rows <= written:
        return None
    return (
        f"has {rows:,} rows, and headstrip wrote {written:,} of them, as if several files had been "
        "put together"
    )


def array_problem(out: Path, metadata: dict[str, Any]) -> str | None:
    """Return why a file has other embeddings than its rows, or more rows than headstrip wrote.

    It returns None if the file has neither.

    Args:
        out: The file of embeddings.
        metadata: The metadata of its rows.

    Raises:
        OSError: A file exists and cannot be read now.
    """
    table = rows_file(out)
    if table == out:
        return surplus(metadata, rows_in(table) or 0)
    if metadata.get(ARRAY) is None:
        return "was written by an earlier headstrip, which stored no checksum of the array"
    try:
        with open_parquet(table) as parquet:
            rows = parquet.metadata.num_rows
        with open(out, "rb") as array:
            check_array(array, str(table), rows, metadata[ARRAY])
    except FileNotFoundError:
        return "is missing"
    except DamagedFile:
        return "has damaged rows beside it"
    except ArrayProblem as problem:
        return str(problem)
    return None
