"""Rows of earlier runs that still hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstrip.embed.decoding.checksum import checksum_of
from headstrip.embed.output.array_file import read_rows
from headstrip.embed.output.damage import DamagedFile, damage_named
from headstrip.embed.output.paths import embeddings_file, is_rows, opened
from headstrip.embed.output.table import Rows
from headstrip.embed.sources import Item, Reader, is_clipped
from headstrip.errors import ImageError


class _Group(NamedTuple):
    """A group of rows of a file, with the first and the last of its paths."""

    first: str
    last: str
    file: Path
    number: int
    start: int


class Priors:
    """Files of rows, each sorted by path, that the rows of a listing are looked up in."""

    def __init__(
        self, files: Iterable[Path], *, retry_failed: bool, checksum: bool, reader: Reader
    ) -> None:
        """Read the files' footers.

        Args:
            files: Parquet files of rows that were computed with the same plan, the newest first;
                one that ends in ``.rows.parquet`` has its embeddings in the ``.npy`` beside it,
                which has been checked to be its own.
            retry_failed: Whether the rows of bad images are not taken.
            checksum: Whether to compare the checksum of every image's bytes. Otherwise the size
                and the time of the file are compared, and the checksum where the time is one that
                stands for several.
            reader: What reads an image's bytes, to compare their checksum.
        """
        self._groups = [group for file in files for group in _groups_of(file)]
        self._retry, self._checksum, self._reader = retry_failed, checksum, reader

    def fill(self, rows: Rows) -> list[int]:
        """Fill in the rows that are known.

        Returns:
            The places of the others.
        """
        wanted = {item.path: place for place, item in enumerate(rows.items)}
        first, last = rows.items[0].path, rows.items[-1].path
        for group in self._groups:
            if wanted and group.first <= last and group.last >= first:
                table = _read(group)
                if table is not None:
                    self._take(table, rows, wanted)
        return sorted(wanted.values())

    def _take(self, table: pa.Table, rows: Rows, wanted: dict[str, int]) -> None:
        found = table["path"].to_pylist()
        hits = [(at, wanted[path]) for at, path in enumerate(found) if path in wanted]
        if not hits:
            return
        taken = table.take([at for at, _ in hits])
        # Without its nulls: `flatten` leaves out what bad images have.
        embeddings = np.asarray(taken["embedding"].combine_chunks().values).reshape(len(hits), -1)
        columns = taken.drop_columns(["embedding"]).to_pylist()
        for (_, place), row, embedding in zip(hits, columns, embeddings, strict=True):
            if self._holds(row, rows.items[place]):
                rows.embeddings[place] = embedding
                rows.widths[place], rows.heights[place] = row["width"], row["height"]
                rows.errors[place], rows.checksums[place] = row["error"], row["checksum"]
                del wanted[row["path"]]

    def _holds(self, row: dict[str, Any], item: Item) -> bool:
        if row["error"] is not None and self._retry:
            return False
        if not self._checksum:
            if row["size"] != item.size or row["modified"] != item.modified:
                return False
            if not is_clipped(item.modified):
                return True
        try:
            return bool(row["checksum"] == checksum_of(self._reader.read(item)))
        except ImageError:
            return False


def _groups_of(file: Path) -> list[_Group]:
    groups, start = [], 0
    try:
        with damage_named(file), opened(file) as source:
            metadata = pq.read_metadata(source)
    except (FileNotFoundError, DamagedFile):
        return []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        paths = group.column(0).statistics
        if paths is not None and paths.has_min_max:
            groups.append(_Group(paths.min, paths.max, file, number, start))
        start += group.num_rows
    return groups


def _read(group: _Group) -> pa.Table | None:
    """Read a group of rows, or return None where it is damaged: they are computed again."""
    try:
        with (
            damage_named(group.file),
            opened(group.file) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            table = file.read_row_group(group.number, use_threads=False)
            if not is_rows(group.file):
                return table
            stop = group.start + table.num_rows
            part = read_rows(embeddings_file(group.file), group.start, stop)
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
            return table.append_column("embedding", column)
    except (FileNotFoundError, DamagedFile):
        return None
