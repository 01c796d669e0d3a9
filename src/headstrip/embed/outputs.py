"""Which files a table of embeddings is in."""

from __future__ import annotations

from pathlib import Path

ROWS = ".rows.parquet"
"""How the file ends that has the other columns of embeddings in an ``.npy``."""


def rows_file(out: Path) -> Path:
    """Return the file that has the paths and the metadata: ``out`` itself unless it is ``.npy``."""
    return out.with_name(out.name.removesuffix(".npy") + ROWS) if out.suffix == ".npy" else out


def embeddings_file(rows: Path) -> Path:
    """Return the file that has the embeddings of a file of rows."""
    return rows.with_name(rows.name.removesuffix(ROWS) + ".npy") if is_rows(rows) else rows


def is_rows(path: Path) -> bool:
    """Whether the embeddings of a file of rows are in an ``.npy`` beside it."""
    return path.name.endswith(ROWS)
