"""Images whose bytes are in Parquet files."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.sources.access import Access
from headstrip.embed.sources.cells import bytes_columns, image_column, image_of, leaf_of
from headstrip.embed.sources.files import only
from headstrip.embed.sources.items import (
    Item,
    failure,
    image_errors,
    row_name,
    shown_place,
    stamp_in,
)
from headstrip.embed.sources.left_out import Note, unnoted
from headstrip.embed.sources.opened import (
    Shelf,
    joined,
    modified,
    open_place,
    refuse_changed,
    unreadable,
)
from headstrip.embed.sources.trees import Tree
from headstrip.errors import HeadstripError, ImageError

_AT_ONCE = 2
_BATCH_BYTES = 1 << 24
_BATCH_ROWS = 1024
_BUFFER = 1 << 20
_PATHS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class TablesSource:
    """The images in the rows of a tree's Parquet files, named by file and row.

    Attributes:
        tree: The files.
        column: Which column has the images, None where there is one only.
    """

    tree: Tree
    column: str | None = None
    is_stream = False

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": "parquet", "where": self.tree.where, "column": self.column}

    def items(self) -> Iterator[Item]:
        """List the rows; those without an image too.

        Raises:
            HeadstripError: A file is damaged, or has no column of images.
        """
        return self.items_noting(unnoted)

    def items_noting(self, note: Note) -> Iterator[Item]:
        """List the rows as ``items`` does, and call ``note`` with each file left out."""
        for file in only(self.tree, "parquet", note):
            place = joined(self.tree.root, file.path)
            with opened_table(place, file.path, self.tree.access) as table:
                rows, metadata = table.metadata.num_rows, table.schema_arrow.metadata
                column = image_column(table.schema_arrow, self.column, file.path)
            if metadata and b"headstrip" in metadata:
                # What an earlier run wrote, among what it read.
                note(file.path)
                continue
            if column is None:
                raise HeadstripError(
                    f"{file.path!r} has no column with the bytes of images. Leave it out, or name "
                    "the file alone when it has a column of paths."
                )
            written = file.modified or modified(place, self.tree.access)
            for row in range(rows):
                yield Item(row_name(file.path, row), 0, written, file.path, row)

    def reader(self) -> TablesReader:
        """Return what reads them."""
        return TablesReader(self.tree.root, self.column, self.tree.access)


class TablesReader:
    """Reads rows of Parquet files below a folder or a url: quickly in the order of the rows."""

    def __init__(self, root: str, column: str | None, access: Access) -> None:
        """Take where the files are, the column of images, and which urls may be read."""
        self.root = root
        self._shelf = Shelf(_Opening(column, access), _AT_ONCE)

    def read(self, item: Item) -> bytes:
        """Return the image of a row.

        Raises:
            ImageError: It has none, or the file was changed.
        """
        with (
            image_errors(),
            self._shelf.taken(joined(self.root, item.place)) as rows,
        ):
            refuse_changed(item.modified, rows.written())
            return image_of(rows.cell(item.offset))


@dataclass(frozen=True)
class _Opening:
    column: str | None
    access: Access

    def __call__(self, place: str) -> _Rows:
        return _Rows(place, self.column, self.access)


class _Rows:
    """A Parquet file, and the few rows of it that were decoded last."""

    _cells: Any
    _batches: Iterator[Any]

    def __init__(self, place: str, column: str | None, access: Access) -> None:
        self._file = open_place(place, access)
        try:
            self._place, self._modified = place, modified(place, access)
            self._table = pq.ParquetFile(self._file, buffer_size=_BUFFER, pre_buffer=False)
            schema = self._table.schema_arrow
            self._column = image_column(schema, column, place) or ""
            self._leaf = leaf_of(schema, self._column)
            groups = [self._group(index) for index in range(self._table.num_row_groups)]
        except BaseException:
            self._file.close()
            raise
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._at = -1
        self._forget()

    def written(self) -> int:
        """When the file that is open was written."""
        try:
            return stamp_in(os.fstat(self._file.fileno()))[1]
        except (OSError, AttributeError):
            # It is no file of this system.
            return self._modified

    def cell(self, row: int) -> Any:
        if not 0 <= row < self._starts[-1]:
            raise ImageError("its file has no such row.")
        try:
            group = bisect_right(self._starts, row) - 1
            if group != self._at or row < self._first:
                self._turn_to(group)
            while row >= self._first + len(self._cells):
                self._advance()
        except BaseException:
            self._forget()
            raise
        return self._cells[row - self._first]

    def _advance(self) -> None:
        """Decode the next few rows, once those before them are let go."""
        self._first += len(self._cells)
        self._cells = pa.nulls(0)
        batch = next(self._batches, None)
        if batch is None:
            raise ImageError("its file has fewer rows than it says.")
        self._cells = batch.column(0)

    def close(self) -> None:
        self._forget()
        self._table.close(force=True)
        self._file.close()

    def _forget(self) -> None:
        self._at, self._first = -1, 0
        self._cells, self._batches = pa.nulls(0), iter(())

    def _turn_to(self, group: int) -> None:
        self._forget()
        self._batches = self._table.iter_batches(
            self._batch_rows(group), [group], [self._leaf], use_threads=False
        )
        self._at, self._first = group, self._starts[group]

    def _group(self, index: int) -> Any:
        return self._table.metadata.row_group(index)

    def _batch_rows(self, index: int) -> int:
        """Return how many rows of a group are decoded at once: about 16 MiB."""
        group = self._group(index)
        sizes: dict[str, int] = {
            column.path_in_schema: column.total_uncompressed_size
            for column in map(group.column, range(group.num_columns))
        }
        rows: int = group.num_rows
        each = max(1, sizes.get(self._leaf, _BATCH_BYTES) // max(1, rows))
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // each))


@contextmanager
def opened_table(place: str, shown: str, access: Access) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for its footer and its small columns.

    Raises:
        HeadstripError: It cannot be read.
    """
    try:
        with open_place(place, access) as file:
            yield pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
    except HeadstripError:
        raise
    except Exception as error:
        # pyarrow's errors, and those of a driver of remote files.
        raise unreadable(shown, failure(error)) from error


def columns_with_bytes(place: str, shown: str, access: Access) -> tuple[list[str], list[str]]:
    """Return the columns of a Parquet file, and those of them that may have images.

    Raises:
        HeadstripError: It cannot be read.
    """
    with opened_table(place, shown, access) as table:
        return table.schema_arrow.names, bytes_columns(table.schema_arrow)


def has_images(place: str, access: Access) -> bool:
    """Whether a file is Parquet that has a column of bytes and can be read."""
    try:
        return bool(columns_with_bytes(place, place, access)[1])
    except HeadstripError:
        return False


def texts_of_column(place: str, column: str, access: Access) -> Iterator[str]:
    """Yield the paths of a column of a Parquet file.

    Raises:
        HeadstripError: It cannot be read, has no such column, or a row has no path.
    """
    from headstrip.embed.sources.lists import no_column, no_path, not_text, repeated

    shown, row = shown_place(place), 0
    with opened_table(place, shown, access) as table:
        schema = table.schema_arrow
        if column not in schema.names:
            raise no_column(shown, column, schema.names)
        if schema.names.count(column) > 1:
            raise repeated(shown, column, "among its columns")
        for batch in table.iter_batches(_PATHS_AT_ONCE, columns=[column], use_threads=False):
            for value in batch.column(0).to_pylist():
                if value is not None and not isinstance(value, (str, bytes)):
                    raise not_text(shown, column, value, f"row {row}")
                if not value:
                    raise no_path(shown, column, f"row {row}")
                yield os.fsdecode(value)
                row += 1
