"""Datasets that Hugging Face's ``save_to_disk`` wrote: Arrow files, mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from headstrip.embed.sources.containers import ContainerReader
from headstrip.embed.sources.items import Item, Reader, listing_errors, size_and_time, unreadable
from headstrip.embed.sources.names import display_name, joined
from headstrip.embed.sources.tables import image_column, image_in, items_of_rows
from headstrip.errors import HeadstripError, ImageError

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_MOST_OPEN = 4
_MOST_JSON = 1 << 24


@dataclass(frozen=True)
class ArrowSource:
    """The images of a saved dataset, named by split, file and row.

    Attributes:
        root: Its folder, absolute.
        column: The column that has the images, None where only one can have them.
    """

    root: str
    column: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": "dataset", "where": display_name(self.root), "column": self.column}

    def items(self) -> Iterator[Item]:
        """List the rows, those without an image too.

        Raises:
            HeadstripError: The dataset is damaged, or has no column of images.
        """
        for name in self._files():
            location = joined(self.root, name)
            with listing_errors(location):
                table = _ArrowFile(location, self.column)
            modified, rows, has_images = table.modified(), table.rows, table.has_images
            table.close()
            if not has_images:
                raise HeadstripError(
                    f"{location!r} has no column with the bytes of images. Save the dataset with "
                    "its images, or pass a list of their paths."
                )
            yield from items_of_rows(name, modified, rows)

    def reader(self) -> Reader:
        """Return the reader of the items."""
        return ContainerReader(self.root, partial(_ArrowFile, column=self.column), _MOST_OPEN)

    def _files(self) -> Iterator[str]:
        splits = os.path.join(self.root, _SPLITS)
        for split in _names_in(splits, "splits") if os.path.exists(splits) else [""]:
            state = os.path.join(self.root, split, _STATE)
            if _json_object(state).get("_indices_data_files"):
                raise HeadstripError(
                    f"The dataset {self.root!r} has its rows in another order than its files. "
                    "Save it again after flatten_indices()."
                )
            for name in _names_in(state, "_data_files"):
                yield f"{split}/{name}" if split else name


class _ArrowFile:
    """An Arrow file. It is mapped, so only the bytes that are read take memory."""

    def __init__(self, location: str, column: str | None) -> None:
        self._modified = size_and_time(os.stat(location))[1]
        self._map = pa.memory_map(os.fsencode(location))
        try:
            table = _stream_or_file(self._map).read_all()
            name = image_column(table.schema, column, location)
        except BaseException:
            self._map.close()
            raise
        self.rows, self.has_images = int(table.num_rows), name is not None
        self._cells = pa.nulls(0) if name is None else table.column(name)

    def modified(self) -> int:
        return self._modified

    def read(self, item: Item) -> bytes:
        if not 0 <= item.offset < len(self._cells):
            raise ImageError("its file has no such row.")
        return image_in(self._cells, item.offset)

    def close(self) -> None:
        self._cells = pa.nulls(0)
        self._map.close()


def _stream_or_file(source: pa.NativeFile) -> Any:
    """Read the schema; ``save_to_disk`` writes streams, other programs write files."""
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _json_object(path: str) -> dict[str, Any]:
    with listing_errors(path), open(path, "rb") as file:
        found = json.loads(file.read(_MOST_JSON))
    return found if isinstance(found, dict) else {}


def _names_in(path: str, key: str) -> list[str]:
    """Return the names of files or folders that a dataset's JSON lists."""
    values = _json_object(path).get(key)
    names = [
        str(value.get("filename") if isinstance(value, dict) else value)
        for value in (values if isinstance(values, list) else [])
    ]
    if not names or any(name in {"", ".."} or {"/", "\\", "\0"} & set(name) for name in names):
        raise unreadable(path, f"{key!r} does not name files in the same folder")
    return names
