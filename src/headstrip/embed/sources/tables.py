"""Images in the rows of tables: how a table is opened, which column has them, how one is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.sources.access import Access
from headstrip.embed.sources.items import (
    Item,
    image_errors,
    joined,
    reason_of,
    refuse_changed,
    refuse_repeated,
    unreadable,
)
from headstrip.embed.sources.open_files import OpenFiles, open_location
from headstrip.errors import HeadstripError, ImageError
from headstrip.images.size_limit import refuse_size

_BUFFER = 1 << 20


class Table(Protocol):
    """An open file with a row per image."""

    def written(self) -> int:
        """Return when the open file was written, in ns since 1970; 0 where that is not known."""
        ...

    def cell(self, row: int) -> Any:
        """Return the pyarrow scalar with the image of a row.

        Raises:
            ImageError: There is no such row.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class TableReader:
    """Reads rows of files below a folder or a url."""

    def __init__(self, root: str, opening: Callable[[str], Table], most_open: int) -> None:
        """Take where the files are, the function that opens one, and how many stay open."""
        self.root = root
        self._tables = OpenFiles(opening, most_open)

    def read(self, item: Item) -> bytes:
        """Return the image of a row.

        Raises:
            ImageError: The row has none, or the file was changed.
        """
        with image_errors(), self._tables.using(joined(self.root, item.container)) as table:
            refuse_changed(item.modified, table.written())
            return image_of(table.cell(item.offset))


def items_of_rows(container: str, modified: int, rows: int) -> Iterator[Item]:
    """List the rows of a file that was written at ``modified``.

    Example:
        >>> next(items_of_rows("data/train.parquet", 7, 1))[:2]
        ('data/train.parquet/000000000', 0)
    """
    for row in range(rows):
        yield Item(f"{container}/{row:09d}", 0, modified, container, row)


def parquet_file(file: BinaryIO) -> pq.ParquetFile:
    """Read the footer of a Parquet file; its columns are read in small pieces."""
    return pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


@contextmanager
def opened_table(location: str, shown: str, access: Access) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for its footer and its small columns.

    Raises:
        HeadstripError: It cannot be read.
    """
    try:
        with open_location(location, access) as file:
            yield parquet_file(file)
    except HeadstripError:
        raise
    except Exception as error:
        # pyarrow, and the drivers of remote files, raise errors of many classes.
        raise unreadable(shown, reason_of(error)) from error


def columns_with_bytes(location: str, shown: str, access: Access) -> tuple[list[str], list[str]]:
    """Return the columns of a Parquet file, and those of them that may have images.

    Raises:
        HeadstripError: It cannot be read.
    """
    with opened_table(location, shown, access) as table:
        return table.schema_arrow.names, bytes_columns(table.schema_arrow)


def has_images(location: str, access: Access) -> bool:
    """Whether a file is Parquet that has a column of bytes and can be read."""
    try:
        return bool(columns_with_bytes(location, location, access)[1])
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
        refuse_repeated(shown, name, schema.names.count(name), "among its columns")
    if chosen is not None:
        if chosen not in found:
            known = ", ".join(map(repr, found)) or "none"
            raise HeadstripError(
                f"{shown!r} has no column {chosen!r} with the bytes of images. Columns with bytes: "
                f"{known}."
            )
        return chosen
    likely = [name for name in found if pa.types.is_struct(schema.field(name).type)] or found
    if len(likely) > 1:
        raise HeadstripError(
            f"{shown!r} has several columns with bytes: {', '.join(map(repr, likely))}. Choose the "
            "one with the images with --image-column or image_column=."
        )
    return likely[0] if likely else None


def bytes_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that have bytes, or a structure with a field ``bytes``."""
    return [field.name for field in schema if _holds_bytes(field.type)]


def image_of(cell: Any) -> bytes:
    """Return the encoded image of a cell, a pyarrow scalar.

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
        raise ImageError("the image in the row is empty.")
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
