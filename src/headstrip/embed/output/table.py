"""The rows of embeddings, and the Parquet table that stores them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.output.damage import ROWS, DamagedFile, open_parquet
from headstrip.embed.sources import Item
from headstrip.embed.sources.kept import cells_column
from headstrip.system import bounded_json

KEY = b"headstrip"
"""Key of the JSON that describes a file, in its Parquet metadata."""

NOT_FINITE = "its embedding is not finite."


@dataclass(slots=True)
class Rows:
    """Images of a table, in order: each list has one entry per image.

    Attributes:
        items: The images.
        embeddings: float32 array of shape (number of images, dim); that of a bad image is ignored.
        tensors: Maps and tokens by the name of their column: arrays of shape (number of images,
            *shape) with the dtype of the column.
        widths: Pixels from left to right as shown, None if unknown.
        heights: Pixels from top to bottom, None if unknown.
        errors: Why an image has no embedding, else None.
        checksums: What ``checksum_of`` returns for the bytes, None if none could be read.
        pages: Pages or frames of the file of an image that this run read, else 1. Not stored.
    """

    items: list[Item]
    embeddings: np.ndarray
    tensors: dict[str, np.ndarray]
    widths: list[int | None]
    heights: list[int | None]
    errors: list[str | None]
    checksums: list[str | None]
    pages: list[int]

    @classmethod
    def empty(cls, items: Sequence[Item], dim: int, schema: pa.Schema | None = None) -> Rows:
        """Make rows to fill, with the maps and tokens of a schema."""
        count = len(items)
        tensors = {} if schema is None else tensor_types(schema)
        return cls(
            items=list(items),
            embeddings=np.zeros((count, dim), np.float32),
            tensors={
                name: np.zeros((count, *kind.shape), kind.value_type.to_pandas_dtype())
                for name, kind in tensors.items()
            },
            widths=[None] * count,
            heights=[None] * count,
            errors=[None] * count,
            checksums=[None] * count,
            pages=[1] * count,
        )

    def put(self, rows: list[int], outputs: Sequence[np.ndarray]) -> None:
        """Store what the network gave for some rows, of which a batch may have more.

        Args:
            rows: Their indices.
            outputs: The embeddings, and the maps and tokens in the order of their columns.
        """
        for array, values in zip((self.embeddings, *self.tensors.values()), outputs, strict=True):
            array[rows] = values[: len(rows)]


def schema_of(
    dim: int,
    dtype: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[pa.Field] = (),
    kept: Sequence[pa.Field] = (),
) -> pa.Schema:
    """Return the schema of a table of embeddings.

    Args:
        dim: Width of the embeddings.
        dtype: Dtype of the stored embeddings, "float32" or "float16".
        metadata: Plain JSON values, stored under ``KEY``.
        tensors: Columns of maps and tokens.
        kept: Columns of the list of images that are copied.
    """
    kind = pa.float16() if dtype == "float16" else pa.float32()
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            # Parquet's own name for the values: the schema that is read equals the written one.
            pa.field("embedding", pa.list_(pa.field("element", kind), dim)),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("error", pa.string()),
            pa.field("size", pa.int64()),
            pa.field("modified", pa.int64()),
            pa.field("checksum", pa.string()),
            *tensors,
            *kept,
        ]
    )
    return with_metadata(schema, metadata)


def tensor_types(schema: pa.Schema) -> dict[str, pa.FixedShapeTensorType]:
    """Return the types of the columns of maps and tokens, by name."""
    return {
        field.name: field.type
        for field in schema
        if isinstance(field.type, pa.FixedShapeTensorType)
    }


def tensor_bytes(schema: pa.Schema) -> int:
    """Return the bytes of one image's maps and tokens."""
    kinds = tensor_types(schema).values()
    return sum(kind.storage_type.list_size * kind.value_type.bit_width // 8 for kind in kinds)


def with_metadata(schema: pa.Schema, metadata: Mapping[str, Any]) -> pa.Schema:
    """Return a schema with other metadata: plain JSON values, stored under ``KEY``."""
    text = json.dumps(metadata, sort_keys=True, default=repr)
    return schema.with_metadata({KEY: text})


def table_of(rows: Rows, schema: pa.Schema) -> pa.Table:
    """Make a table of rows; an embedding, or a map, that is not finite becomes an error.

    Args:
        rows: The rows; errors are added to them.
        schema: A schema that ``schema_of`` returned.
    """
    kind = schema.field("embedding").type
    with np.errstate(over="ignore"):
        values = rows.embeddings.astype(kind.value_type.to_pandas_dtype(), copy=False)
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1)):
        rows.errors[row] = rows.errors[row] or _not_finite(rows.embeddings[row])
    for name, array in rows.tensors.items():
        for row in np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)):
            rows.errors[row] = rows.errors[row] or f"its {name} does not fit {array.dtype}."
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
        *(
            pa.ExtensionArray.from_storage(
                kind,
                pa.FixedSizeListArray.from_arrays(
                    pa.array(rows.tensors[name].reshape(-1)),
                    type=kind.storage_type,
                    mask=pa.array(bad),
                ),
            )
            for name, kind in tensor_types(schema).items()
        ),
    ]
    kept = [item.kept for item in rows.items]
    columns += [cells_column(kept, field) for field in list(schema)[len(columns) :]]
    return pa.Table.from_arrays(columns, schema=schema)


def _not_finite(embedding: np.ndarray) -> str:
    return "its embedding does not fit float16." if np.isfinite(embedding).all() else NOT_FINITE


def finished_schema(schema: pa.Schema, rows: int, **more: Any) -> pa.Schema:
    """Return the schema of a finished file, whose metadata have the number of its rows.

    Other programs keep the metadata of the first file when they put files together; the number
    reveals it.

    Args:
        schema: The schema of its shards.
        rows: Number of rows.
        more: Other entries of the metadata.
    """
    return with_metadata(schema, {**(metadata_of(schema) or {}), **more, ROWS: rows})


def open_writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a writer of tables: zstd, a checksum for each page, statistics of the paths."""
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        write_page_checksum=True,
        # Embeddings hardly repeat: a dictionary of them costs time and saves nothing.
        use_dictionary=["error"],
        write_statistics=["path"],
    )


def parquet_bytes(table: pa.Table) -> bytes:
    """Return the bytes of a Parquet file with a small table."""
    buffer = io.BytesIO()
    with open_writer(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def metadata_of(schema: pa.Schema) -> dict[str, Any] | None:
    """Return the metadata that ``schema_of`` stored in a schema; None for another schema."""
    try:
        found = bounded_json.parse((schema.metadata or {})[KEY], "The metadata of a table")
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def metadata_in(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a file of embeddings; None for a missing, damaged or other file.

    Raises:
        OSError: The file exists and cannot be read now.
    """
    try:
        with open_parquet(path) as file:
            return metadata_of(file.schema_arrow)
    except (FileNotFoundError, DamagedFile):
        return None
