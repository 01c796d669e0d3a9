"""Takes rows from earlier runs instead of computing them again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from headstrip.embed.decoding.worker import checksum_of
from headstrip.embed.output.array_file import read_rows
from headstrip.embed.output.damage import DamagedFile, open_parquet
from headstrip.embed.output.paths import embeddings_file, is_rows
from headstrip.embed.output.table import Rows
from headstrip.embed.sources import Item, Reader, is_clipped
from headstrip.errors import ImageError


class _RowGroup(NamedTuple):
    """A row group of a file: its first and last path, its number, and the row that it starts at."""

    first: str
    last: str
    file: Path
    number: int
    start: int


class ReusableRows:
    """Files of earlier rows, each sorted by path."""

    def __init__(
        self, files: Iterable[Path], *, retry_failed: bool, checksum: bool, reader: Reader
    ) -> None:
        """Read the footers of the files.

        Args:
            files: Parquet files of rows with the same provenance, the newest first. The embeddings
                of one that ends in ``.rows.parquet`` are in the ``.npy`` beside it, which the
                caller has compared with it.
            retry_failed: Whether to compute the rows of bad images again.
            checksum: Whether to compare the checksum of every image's bytes. Otherwise the size
                and the time of the file are compared, and the checksum only where the time was
                clipped, so that different times look equal.
            reader: Reads the bytes of an image, to compare their checksum.
        """
        self._groups = [group for file in files for group in _groups_of(file)]
        self._retry, self._checksum, self._reader = retry_failed, checksum, reader

    def fill(self, rows: Rows) -> list[int]:
        """Fill in the rows that earlier runs computed and whose images did not change.

        Returns:
            The indices of the other rows, in order.
        """
        wanted = {item.path: row for row, item in enumerate(rows.items)}
        first, last = rows.items[0].path, rows.items[-1].path
        for group in self._groups:
            if wanted and group.first <= last and group.last >= first:
                table = _read(group)
                if table is not None:
                    self._take(table, rows, wanted)
        return sorted(wanted.values())

    def _take(self, table: pa.Table, rows: Rows, wanted: dict[str, int]) -> None:
        """Fill in the wanted rows that a table has, and remove them from ``wanted``."""
        hits = [at for at, path in enumerate(table["path"].to_pylist()) if path in wanted]
        if not hits:
            return
        found = table.take(hits)
        # `flatten` would leave out the rows of bad images, which are null.
        embeddings = np.asarray(found["embedding"].combine_chunks().values).reshape(len(hits), -1)
        tensors = {
            name: np.asarray(found[name].combine_chunks().storage.values).reshape(
                -1, *array.shape[1:]
            )
            for name, array in rows.tensors.items()
        }
        columns = found.drop_columns(["embedding", *tensors]).to_pylist()
        for at, (earlier, embedding) in enumerate(zip(columns, embeddings, strict=True)):
            row = wanted.get(earlier["path"])
            if row is None or not self._is_current(earlier, rows.items[row]):
                continue
            rows.put([row], [embedding[None], *(array[at : at + 1] for array in tensors.values())])
            rows.widths[row], rows.heights[row] = earlier["width"], earlier["height"]
            rows.errors[row], rows.checksums[row] = earlier["error"], earlier["checksum"]
            del wanted[earlier["path"]]

    def _is_current(self, earlier: dict[str, Any], item: Item) -> bool:
        """Whether an earlier row still describes an image."""
        if earlier["error"] is not None and self._retry:
            return False
        if not self._checksum:
            if earlier["size"] != item.size or earlier["modified"] != item.modified:
                return False
            if not is_clipped(item.modified):
                return True
        try:
            return bool(earlier["checksum"] == checksum_of(self._reader.read(item)))
        except ImageError:
            return False


def _groups_of(file: Path) -> list[_RowGroup]:
    groups, start = [], 0
    try:
        with open_parquet(file) as parquet:
            metadata = parquet.metadata
    except (FileNotFoundError, DamagedFile):
        return []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        paths = group.column(0).statistics
        if paths is not None and paths.has_min_max:
            groups.append(_RowGroup(paths.min, paths.max, file, number, start))
        start += group.num_rows
    return groups


def _read(group: _RowGroup) -> pa.Table | None:
    """Read a row group; return None if it is damaged, so that its rows are computed again."""
    try:
        with open_parquet(group.file) as file:
            table = file.read_row_group(group.number, use_threads=False)
            if not is_rows(group.file):
                return table
            stop = group.start + table.num_rows
            part = read_rows(embeddings_file(group.file), group.start, stop)
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
            return table.append_column("embedding", column)
    except (FileNotFoundError, DamagedFile):
        return None
