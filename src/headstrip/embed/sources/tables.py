"""Images in the rows of tables: which column has them, and how one is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.sources.access import Access
from headstrip.embed.sources.items import Item, listing_errors, refuse_repeated
from headstrip.embed.sources.urls import open_location
from headstrip.errors import HeadstripError, ImageError
from headstrip.images.size_limit import refuse_size

BUFFER = 1 << 20
"""How much of a column is read at once, in bytes."""


def items_of_rows(container: str, modified: int, rows: int) -> Iterator[Item]:
    """List the rows of a file that was written at ``modified``.

    Example:
        >>> next(items_of_rows("data/train.parquet", 7, 1))[:2]
        ('data/train.parquet/000000000', 0)
    """
    for row in range(rows):
        yield Item(f"{container}/{row:09d}", 0, modified, container, row)


@contextmanager
def opened_table(location: str, shown: str, access: Access) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for its footer and its small columns.

    Raises:
        HeadstripError: It cannot be read.
    """
    with listing_errors(shown), open_location(location, access) as file:
        yield pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)


def has_images(location: str, access: Access) -> bool:
    """Whether a file is Parquet that has a column of bytes and can be read."""
    try:
        with opened_table(location, location, access) as table:
            return bool(bytes_columns(table.schema_arrow))
    except HeadstripError:
        return False


def image_column(schema: pa.Schema, chosen: str | None, shown: str) -> str | None:
    """Return the column of a table that has encoded images, or None where none has.

    These are bytes, or Hugging Face's ``{bytes, path}``, which goes first where there are both.

    Args:
        schema: The table's.
        chosen: The column that the user chose.
        shown: The table's name, for errors.

    Raises:
        HeadstripError: There is no such column, it has no bytes, or several columns have bytes.
    """
    found = bytes_columns(schema)
    for name in found if chosen is None else [chosen]:
        refuse_repeated(shown, name, schema.names, "among its columns")
    if chosen is not None:
        if chosen not in found:
            known = ", ".join(map(repr, found))
            remedy = f"Pass one that has bytes: {known}." if known else "None of its columns has."
            raise HeadstripError(
                f"{shown!r} has no column {chosen!r} with the bytes of images. {remedy}"
            )
        return chosen
    likely = [name for name in found if pa.types.is_struct(schema.field(name).type)] or found
    if len(likely) > 1:
        raise HeadstripError(
            f"{shown!r} has several columns that contain bytes: {', '.join(map(repr, likely))}. "
            "Pass the one with the images: --image-column NAME (image_column=)."
        )
    return likely[0] if likely else None


def bytes_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that have bytes, or a structure with a field ``bytes``."""
    return [field.name for field in schema if _holds_bytes(field.type)]


def image_in(cells: pa.Array | pa.ChunkedArray, row: int) -> bytes:
    """Return the encoded image of a row.

    Args:
        cells: A column, or a part of one.
        row: The position in it; a valid one.

    Raises:
        ImageError: The cell has no image, or one larger than ``MAX_BYTES``.
    """
    cell = cells[row]
    if cell.is_valid and isinstance(cell, pa.StructScalar):
        cell = cell["bytes"]
    if not cell.is_valid:
        raise ImageError("the cell of the image is null. Fill it, or leave out the row.")
    content = cell.as_buffer()
    refuse_size(content.size)
    if not content.size:
        raise ImageError("the image in the row has 0 bytes. Write it again, or leave out the row.")
    return bytes(content.to_pybytes())


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        # -1 stands for no such field, and for several.
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )
