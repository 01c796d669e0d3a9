"""Files of embeddings of any values, as ``headstrip embed`` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(
    out: Path,
    paths: Sequence[str],
    embeddings: np.ndarray,
    *,
    bad: Sequence[int] = (),
    metadata: Mapping[str, Any] | None = None,
    rows_per_group: int | None = None,
) -> Path:
    """Write ``out.parquet``; the embeddings of the ``bad`` rows are null."""
    table, mask = _rows(paths, bad), np.isin(np.arange(len(paths)), bad)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)),
        type=pa.list_(pa.from_numpy_dtype(embeddings.dtype), embeddings.shape[1]),
        mask=pa.array(mask),
    )
    table = table.add_column(1, "embedding", column)
    return _written(table, out.with_name(f"{out.name}.parquet"), metadata, rows_per_group)


def write_npy(
    out: Path,
    paths: Sequence[str],
    embeddings: np.ndarray,
    *,
    bad: Sequence[int] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``out.npy`` and ``out.rows.parquet``; the embeddings of the ``bad`` rows are NaN."""
    array = embeddings.copy()
    array[list(bad)] = np.nan
    file = out.with_name(f"{out.name}.npy")
    np.save(file, array)
    _written(_rows(paths, bad), out.with_name(f"{out.name}.rows.parquet"), metadata, None)
    return file


def _rows(paths: Sequence[str], bad: Sequence[int]) -> pa.Table:
    errors = ["torn." if row in bad else None for row in range(len(paths))]
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "error": pa.array(errors, pa.string()),
            "size": pa.array([1] * len(paths), pa.int64()),
            "modified": pa.array([0] * len(paths), pa.int64()),
        }
    )


def _written(
    table: pa.Table, file: Path, metadata: Mapping[str, Any] | None, rows_per_group: int | None
) -> Path:
    if metadata is not None:
        table = table.replace_schema_metadata({"headstrip": json.dumps(metadata)})
    pq.write_table(
        table,
        file,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=["error"],
        row_group_size=rows_per_group or 1 << 20,
    )
    return file
