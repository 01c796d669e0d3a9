"""The rows of embeddings, and the Parquet table that they are in."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.sources import Item
from headstrip.system import bounded_json

KEY = b"headstrip"
"""Where the file's own metadata has what the embeddings depend on, as JSON."""

NOT_FINITE = "its embedding is not finite."


@dataclass(slots=True)
class Rows:
    """Images of a table, in order, one place of each list an image.

    Attributes:
        items: Where they are.
        embeddings: float32 array of shape (number of images, dim); a bad image's is not read.
        widths: Pixels from left to right as shown, None where they are not known.
        heights: Pixels from top to bottom, None where they are not known.
        errors: Why an image was not embedded, else None.
        checksums: What ``checksum_of`` makes of the bytes, None where there were none to read.
        pages: Pages or frames of the file of an image that was read in this run, else 1. No column.
    """

    items: list[Item]
    embeddings: np.ndarray
    widths: list[int | None]
    heights: list[int | None]
    errors: list[str | None]
    checksums: list[str | None]
    pages: list[int]

    @classmethod
    def empty(cls, items: Sequence[Item], dim: int) -> Rows:
        """Make rows that are to be filled."""
        count = len(items)
        return cls(
            list(items), np.zeros((count, dim), np.float32),
            [None] * count, [None] * count, [None] * count, [None] * count, [1] * count,
        )  # fmt: skip


def schema_of(dim: int, dtype: str, metadata: Mapping[str, Any]) -> pa.Schema:
    """Return the schema of a table of embeddings.

    Args:
        dim: Width of the embeddings.
        dtype: What they are kept as, "float32" or "float16".
        metadata: Plain JSON values, kept under ``KEY``.
    """
    kind = pa.float16() if dtype == "float16" else pa.float32()
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            # Parquet's own name for it: what is read back has the schema that was written.
            pa.field("embedding", pa.list_(pa.field("element", kind), dim)),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("error", pa.string()),
            pa.field("size", pa.int64()),
            pa.field("modified", pa.int64()),
            pa.field("checksum", pa.string()),
        ]
    )
    return with_metadata(schema, metadata)


def with_metadata(schema: pa.Schema, metadata: Mapping[str, Any]) -> pa.Schema:
    """Return a schema with metadata of its own: plain JSON values, kept under ``KEY``."""
    text = json.dumps(metadata, sort_keys=True, default=repr)
    return schema.with_metadata({KEY: text})


def table_of(rows: Rows, schema: pa.Schema) -> pa.Table:
    """Make a table of rows; an embedding that is not finite becomes an error.

    Args:
        rows: The rows; their errors are added to.
        schema: What ``schema_of`` gave.
    """
    kind = schema.field("embedding").type
    with np.errstate(over="ignore"):
        values = rows.embeddings.astype(kind.value_type.to_pandas_dtype(), copy=False)
    for place in np.flatnonzero(~np.isfinite(values).all(axis=1)):
        rows.errors[place] = rows.errors[place] or _not_finite(rows.embeddings[place])
    bad = np.array([error is not None for error in rows.errors], bool)
    embedding = pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), type=kind, mask=pa.array(bad)
    )
    columns = [
        pa.array([item.path for item in rows.items], pa.string()),
        embedding,
        pa.array(rows.widths, pa.int32()),
        pa.array(rows.heights, pa.int32()),
        pa.array(rows.errors, pa.string()),
        pa.array([item.size for item in rows.items], pa.int64()),
        pa.array([item.modified for item in rows.items], pa.int64()),
        pa.array(rows.checksums, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def open_writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a writer of tables: zstd, a checksum on each page, statistics of the paths."""
    return pq.ParquetWriter(
        file, schema, compression="zstd", write_page_checksum=True,
        # Floats do not repeat: a dictionary of them is work for nothing.
        use_dictionary=["error"], write_statistics=["path"],
    )  # fmt: skip


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a Parquet file of a table that is small."""
    buffer = io.BytesIO()
    with open_writer(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def metadata_of(schema: pa.Schema) -> dict[str, Any] | None:
    """Return what ``schema_of`` kept in a schema, or None in one that it did not make."""
    try:
        found = bounded_json.parse((schema.metadata or {})[KEY], "The metadata of a table")
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _not_finite(embedding: np.ndarray) -> str:
    return "its embedding does not fit float16." if np.isfinite(embedding).all() else NOT_FINITE
