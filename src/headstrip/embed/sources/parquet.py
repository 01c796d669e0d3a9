"""Images whose bytes are in Parquet files."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.containers import ContainerReader
from headstrip.embed.sources.items import Item, Reader, size_and_time
from headstrip.embed.sources.left_out import Note, ignore
from headstrip.embed.sources.names import joined
from headstrip.embed.sources.tables import (
    BUFFER,
    image_column,
    image_in,
    items_of_rows,
    opened_table,
)
from headstrip.embed.sources.trees import TreeSource
from headstrip.embed.sources.urls import filesystem, open_location, size_and_time_in
from headstrip.errors import HeadstripError, ImageError

_MOST_OPEN = 2
_BATCH_BYTES = 1 << 24
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class ParquetSource(TreeSource):
    """The images in the rows of a tree's Parquet files, named by file and row.

    Attributes:
        tree: The files.
        column: The column that has the images, None where only one can have them.
    """

    column: str | None = None
    file_kind = "parquet"

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {**super().describe(), "column": self.column}

    def items(self, note: Note = ignore) -> Iterator[Item]:
        """List the rows, those without an image too, and call ``note`` with each file left out.

        Raises:
            HeadstripError: A file is damaged, or has no column of images.
        """
        for file in self.files(note):
            location = joined(self.tree.root, file.path)
            with opened_table(location, file.path, self.tree.access) as table:
                rows, metadata = table.metadata.num_rows, table.schema_arrow.metadata
                column = image_column(table.schema_arrow, self.column, file.path)
            if metadata and b"headstrip" in metadata:
                # headstrip wrote it in an earlier run.
                note(file.path)
                continue
            if column is None:
                raise HeadstripError(
                    f"{file.path!r} has no column with the bytes of images. Take it out of the "
                    "folder. If it lists paths of images, pass the file itself as the source."
                )
            yield from items_of_rows(file.path, file.modified, rows)

    def reader(self) -> Reader:
        """Return the reader of the items."""
        opening = partial(_ParquetFile, column=self.column, access=self.tree.access)
        return ContainerReader(self.tree.root, opening, _MOST_OPEN)


class _ParquetFile:
    """A Parquet file, and the rows of it that were decoded last: quick in the order of rows."""

    def __init__(self, location: str, column: str | None, access: Access) -> None:
        self._file = open_location(location, access)
        try:
            self._time_of_url: int | None = None
            if is_url(location):
                files, path = filesystem(location, access)
                self._time_of_url = size_and_time_in(files.info(path))[1]
            self._table = pq.ParquetFile(self._file, buffer_size=BUFFER, pre_buffer=False)
            schema, metadata = self._table.schema_arrow, self._table.metadata
            name = image_column(schema, column, location) or ""
            is_struct = pa.types.is_struct(schema.field(name).type)
            self._leaf = f"{name}.bytes" if is_struct else name
            self._groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        except BaseException:
            self._file.close()
            raise
        self._starts = [0, *accumulate(group.num_rows for group in self._groups)]
        self._group: int | None = None
        self._batches: Iterator[Any] = iter(())
        self._first, self._cells = 0, pa.nulls(0)

    def modified(self) -> int:
        if self._time_of_url is not None:
            return self._time_of_url
        return size_and_time(os.fstat(self._file.fileno()))[1]

    def read(self, item: Item) -> bytes:
        row = item.offset
        if not 0 <= row < self._starts[-1]:
            raise ImageError("its file has no such row.")
        group = bisect_right(self._starts, row) - 1
        try:
            if group != self._group or row < self._first:
                self._batches = self._table.iter_batches(
                    self._batch_rows(group), [group], [self._leaf], use_threads=False
                )
                self._group, self._first, self._cells = group, self._starts[group], pa.nulls(0)
            while row >= self._first + len(self._cells):
                self._decode_more()
        except BaseException:
            # Another row of the group starts at the group's first row.
            self._group = None
            raise
        return image_in(self._cells, row - self._first)

    def close(self) -> None:
        self._table.close(force=True)
        self._file.close()

    def _decode_more(self) -> None:
        """Decode the next few rows, and release those before them first."""
        self._first += len(self._cells)
        self._cells = pa.nulls(0)
        batch = next(self._batches, None)
        if batch is None:
            raise ImageError("its file has fewer rows than it states.")
        self._cells = batch.column(0)

    def _batch_rows(self, index: int) -> int:
        """Return how many rows of a group make about 16 MiB, which are decoded at once."""
        group = self._groups[index]
        columns = map(group.column, range(group.num_columns))
        sizes = {each.path_in_schema: each.total_uncompressed_size for each in columns}
        bytes_per_row = max(1, sizes.get(self._leaf, _BATCH_BYTES) // max(1, group.num_rows))
        return int(max(1, min(_BATCH_ROWS, _BATCH_BYTES // bytes_per_row)))
