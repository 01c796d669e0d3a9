"""Datasets that Hugging Face's ``save_to_disk`` wrote: Arrow files, mapped."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from headstrip.embed.sources.cells import image_column, image_of
from headstrip.embed.sources.items import (
    Item,
    failure,
    image_errors,
    row_name,
    shown_place,
    stamp_in,
)
from headstrip.embed.sources.opened import Shelf, joined, refuse_changed, unreadable
from headstrip.errors import HeadstripError, ImageError

STATE, SPLITS = "state.json", "dataset_dict.json"
_AT_ONCE = 4
_MOST_JSON = 1 << 24


@dataclass(frozen=True)
class ArrowSource:
    """The images of a saved dataset, named by split, file and row.

    Attributes:
        root: Its folder, absolute.
        column: Which column has the images, None where there is one only.
    """

    root: str
    column: str | None = None
    is_stream = False

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": "dataset", "where": shown_place(self.root), "column": self.column}

    def items(self) -> Iterator[Item]:
        """List the rows; those without an image too.

        Raises:
            HeadstripError: The dataset is damaged, or has no column of images.
        """
        for name in self._files():
            place = joined(self.root, name)
            try:
                written, table = stamp_in(os.stat(place))[1], _Mapped(place)
            except (OSError, pa.ArrowException) as error:
                raise unreadable(place, failure(error)) from error
            if image_column(table.schema, self.column, name) is None:
                raise HeadstripError(
                    f"{place!r} has no column with the bytes of images. Save the dataset with its "
                    "images, or name a list of their paths."
                )
            rows = len(table)
            table.close()
            for row in range(rows):
                yield Item(row_name(name, row), 0, written, name, row)

    def reader(self) -> ArrowReader:
        """Return what reads them."""
        return ArrowReader(self.root, self.column)

    def _files(self) -> Iterator[str]:
        if not os.path.exists(os.path.join(self.root, SPLITS)):
            yield from self._files_of("")
            return
        for split in _strings(os.path.join(self.root, SPLITS), "splits"):
            yield from self._files_of(split)

    def _files_of(self, split: str) -> Iterator[str]:
        state = os.path.join(self.root, split, STATE)
        if _read(state).get("_indices_data_files"):
            raise HeadstripError(
                f"The dataset {self.root!r} has its rows in another order than its files. Save it "
                "again after flatten_indices()."
            )
        for name in _strings(state, "_data_files"):
            yield f"{split}/{name}" if split else name


class ArrowReader:
    """Reads rows of a saved dataset's files, in any order."""

    def __init__(self, root: str, column: str | None) -> None:
        """Take the dataset's folder, and the column of images."""
        self.root, self._column = root, column
        self._shelf = Shelf(_Mapped, _AT_ONCE)

    def read(self, item: Item) -> bytes:
        """Return the image of a row.

        Raises:
            ImageError: It has none, or the file was changed.
        """
        with (
            image_errors(),
            self._shelf.taken(joined(self.root, item.place)) as table,
        ):
            refuse_changed(item.modified, table.written)
            column = image_column(table.schema, self._column, item.place) or ""
            return image_of(table.cell(column, item.offset))


class _Mapped:
    """An Arrow file, whose bytes are in memory as far as they are looked at."""

    def __init__(self, place: str) -> None:
        self.written = stamp_in(os.stat(place))[1]
        self._map = pa.memory_map(os.fsencode(place))
        try:
            reader = _stream_or_file(self._map)
            self.schema: pa.Schema = reader.schema
            self._batches = _batches(reader)
        except BaseException:
            self._map.close()
            raise
        self._starts = [0, *accumulate(batch.num_rows for batch in self._batches)]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def cell(self, column: str, row: int) -> Any:
        if not 0 <= row < len(self):
            raise ImageError("its file has no such row.")
        at = bisect_right(self._starts, row) - 1
        return self._batches[at].column(column)[row - self._starts[at]]

    def close(self) -> None:
        self._batches = []
        self._map.close()


def _stream_or_file(source: pa.NativeFile) -> Any:
    """Read the schema; ``save_to_disk`` writes streams, other programs files."""
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _batches(reader: Any) -> list[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchStreamReader):
        return list(reader)
    return [reader.get_batch(index) for index in range(reader.num_record_batches)]


def _read(place: str) -> dict[str, Any]:
    try:
        with open(place, "rb") as file:
            found = json.loads(file.read(_MOST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(place, failure(error)) from error
    return found if isinstance(found, dict) else {}


def _strings(place: str, key: str) -> list[str]:
    """Return the names of files or folders that a dataset's JSON lists."""
    values = _read(place).get(key)
    names = [
        str(value.get("filename") if isinstance(value, dict) else value)
        for value in (values if isinstance(values, list) else [])
    ]
    if not names or any(name in {"", ".."} or {"/", "\\", "\0"} & set(name) for name in names):
        raise unreadable(place, f"{key!r} does not name files that lie beside it")
    return names
