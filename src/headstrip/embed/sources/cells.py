"""Encoded images in the cells of a table: plain bytes, or Hugging Face's ``{bytes, path}``."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from headstrip.embed.sources.items import refuse_size
from headstrip.errors import HeadstripError, ImageError


def image_column(schema: pa.Schema, asked: str | None, shown: str) -> str | None:
    """Return the column of a table that has encoded images, or None where none has.

    Args:
        schema: The table's.
        asked: The column that its user named.
        shown: The table's name, for errors.

    Raises:
        HeadstripError: There is no such column, it has no images, or several might be meant.
    """
    found = bytes_columns(schema)
    for name in [asked] if asked is not None else found:
        if schema.names.count(name) > 1:
            raise HeadstripError(
                f"{shown!r} has the column {name!r} more than once, and headstrip cannot tell "
                "which one is meant. Rename one of them, or take it out."
            )
    structs = [name for name in found if pa.types.is_struct(schema.field(name).type)]
    if asked is not None:
        if asked not in found:
            known = ", ".join(map(repr, found)) or "none has any"
            raise HeadstripError(
                f"{shown!r} has no column {asked!r} with the bytes of images. Columns with bytes: "
                f"{known}."
            )
        return asked
    # Bytes may be anything; bytes with a path are what Hugging Face makes of an image.
    likely = structs or found
    if len(likely) > 1:
        raise HeadstripError(
            f"{shown!r} has several columns with bytes: {', '.join(map(repr, likely))}. Say which "
            "one has the images, with --image-column or image_column=."
        )
    return likely[0] if likely else None


def bytes_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that have bytes, or a structure with a field ``bytes``."""
    return [field.name for field in schema if _holds_bytes(field.type)]


def leaf_of(schema: pa.Schema, column: str) -> str:
    """Return the name under which Parquet keeps a column's bytes."""
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


def image_of(cell: Any) -> bytes:
    """Return the encoded image of a cell.

    Args:
        cell: A scalar of pyarrow's.

    Raises:
        ImageError: There is none, or it is larger than ``MAX_BYTES``.
    """
    if cell.is_valid and isinstance(cell, pa.StructScalar):
        cell = cell["bytes"]
    if not cell.is_valid:
        raise ImageError("the row has no bytes of an image.")
    content = cell.as_buffer()
    refuse_size(content.size)
    if not content.size:
        raise ImageError("the row has an image of no bytes.")
    return bytes(content.to_pybytes())


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        return names.count("bytes") == 1 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )
