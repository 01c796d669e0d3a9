"""The Parquet file of embeddings: written beside its final name, and renamed when it is whole."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.errors import HeadstripError

_ROWS_PER_GROUP = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a table of embeddings.

    Attributes:
        path: Where it is, as ``stored_path`` writes it.
        embedding: float32 array of shape (dim,), None for an image that was not embedded.
        width: Pixels from left to right, None when they are not known.
        height: Pixels from top to bottom, None when they are not known.
        error: Why it was not embedded, else None.
    """

    path: str
    embedding: np.ndarray | None
    width: int | None
    height: int | None
    error: str | None


class EmbeddingsTable:
    """The rows of a Parquet file in the making, written in groups as they come."""

    def __init__(self, writer: pq.ParquetWriter, dim: int) -> None:
        """Start without rows."""
        self._writer, self._dim = writer, dim
        self._pending: list[Row] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, in order."""
        self._pending += rows
        if len(self._pending) >= _ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a group of its own."""
        if self._pending:
            self._writer.write_table(_table(self._pending, self._dim, self._writer.schema))
        self._pending = []


@contextmanager
def embeddings_file(
    out: Path, dim: int, rows: int, metadata: Mapping[str, Any]
) -> Iterator[EmbeddingsTable]:
    """Write a Parquet file whole or not at all.

    Args:
        out: Where the file will stand once the body is through; one that is there is replaced.
        dim: Width of the embeddings.
        rows: Number of rows that it must have in the end.
        metadata: Plain JSON values, kept in the file under the key ``headstrip``.

    Yields:
        The table to add rows to.

    Raises:
        HeadstripError: The file cannot be written, or has another number of rows.
    """
    # Not after `out`: with its name in it, this one might be too long.
    temporary = out.with_name(f".headstrip-{secrets.token_hex(8)}.tmp")
    schema = _schema(dim, metadata)
    try:
        with open(temporary, "xb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                table = EmbeddingsTable(writer, dim)
                yield table
                table.flush()
            file.flush()
            os.fsync(file.fileno())
        _check_rows(out, pq.read_metadata(temporary).num_rows, rows)
        os.replace(temporary, out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise HeadstripError(
            f"{str(out)!r} could not be written ({reason}), and nothing of it is left. "
            "Make room, or name another file."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _check_rows(out: Path, found: int, rows: int) -> None:
    if found != rows:
        raise HeadstripError(
            f"{str(out)!r} was not written: it would have {found} rows for {rows} images. "
            "Report it."
        )


def _schema(dim: int, metadata: Mapping[str, Any]) -> pa.Schema:
    text = json.dumps(metadata, sort_keys=True, default=repr)
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dim)),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("error", pa.string()),
        ],
        metadata={"headstrip": text},
    )


def _table(rows: Sequence[Row], dim: int, schema: pa.Schema) -> pa.Table:
    nothing = np.zeros(dim, np.float32)
    values = np.concatenate([nothing if r.embedding is None else r.embedding for r in rows])
    embedding = pa.FixedSizeListArray.from_arrays(
        pa.array(values),
        type=schema.field("embedding").type,
        mask=pa.array([row.embedding is None for row in rows]),
    )
    columns = [
        pa.array([row.path for row in rows], pa.string()),
        embedding,
        pa.array([row.width for row in rows], pa.int32()),
        pa.array([row.height for row in rows], pa.int32()),
        pa.array([row.error for row in rows], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
