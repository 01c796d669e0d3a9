"""The images of a source, sorted and numbered: a million of them take some 60 MB of memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headstrip.embed.sources import Item, is_clipped
from headstrip.errors import HeadstripError
from headstrip.system.atomic import written_beside

_AT_ONCE = 1 << 14
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.int64(), nullable=False),
        pa.field("container", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("page", pa.int32(), nullable=False),
        pa.field("kept", pa.string(), nullable=False),
    ]
)
FILE = "listing.arrow"
"""Name of the listing, in the folder of the shards that belong to it."""

_MAGIC = b"ARROW1"


@dataclass(frozen=True, eq=False)
class Listing:
    """Items in the order of their paths, numbered from 0.

    Attributes:
        digest: Hexadecimal sha256 over the source and all items. Two listings of an unchanged
            source have the same digest.
        table: The items, one per row.
    """

    table: pa.Table
    digest: str

    def __len__(self) -> int:
        """Return the number of items."""
        return int(self.table.num_rows)

    def has_clipped_times(self, start: int = 0, stop: int | None = None) -> bool:
        """Whether the time of an item from ``start`` up to ``stop`` was clipped to 64 bits.

        Equal times do not mean an unchanged file then.
        """
        times = self.table["modified"].slice(start, None if stop is None else stop - start)
        bounds = pc.min_max(times).as_py().values()
        return any(bound is not None and is_clipped(bound) for bound in bounds)

    def of_unknown_time(self) -> Iterator[Item]:
        """Yield the items of which no time is known: of a server, or of a file that is missing."""
        for start in range(0, len(self), _AT_ONCE):
            part = self.table.slice(start, _AT_ONCE)
            part = part.filter(pc.equal(part["modified"], 0))
            yield from Listing(part, self.digest).slice(0, part.num_rows)

    def slice(self, start: int, stop: int) -> list[Item]:
        """Return the items from ``start`` up to ``stop``."""
        columns = self.table.slice(start, stop - start).to_pydict()
        return list(map(Item._make, zip(*(columns[name] for name in Item._fields), strict=True)))


def list_items(described: Mapping[str, Any], items: Iterable[Item]) -> Listing:
    """Sort items by path.

    Args:
        described: What the source's ``describe`` returns.
        items: Its items, in any order.

    Raises:
        HeadstripError: There are no items, or two have the same path.
    """
    table = pa.Table.from_batches(_batches(items), _SCHEMA).unify_dictionaries()
    if not table.num_rows:
        raise HeadstripError(
            f"There is no image in {described.get('where', described)!r}. Pass another source."
        )
    table = _sorted(table)
    return Listing(table, _digest(described, table))


def write_listing(folder: Path, described: Mapping[str, Any], items: Iterable[Item]) -> Listing:
    """Sort items by path, and write them for other machines to read.

    Args:
        folder: Where to create a folder for the file, named by the listing's digest.
        described: As in ``list_items``.
        items: As in ``list_items``.

    Raises:
        HeadstripError: There are no items, or two have the same path.
        OSError: The file cannot be written.
    """
    listing = list_items(described, items)
    target = listing_file(folder, listing.digest)
    target.parent.mkdir(exist_ok=True)
    # Without its listing a folder of shards counts as somebody else's.
    with (
        written_beside(target, durable=True) as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
    ):
        writer.write_table(listing.table, _AT_ONCE)
    return listing


def read_listing(folder: Path, digest: str) -> Listing:
    """Map a file that ``write_listing`` wrote.

    Raises:
        OSError: The file cannot be read.
        pyarrow.ArrowInvalid: It is damaged.
    """
    with pa.memory_map(os.fsencode(listing_file(folder, digest))) as file:
        return Listing(pa.ipc.open_file(file).read_all(), digest)


def listing_file(folder: Path, digest: str) -> Path:
    """Return the path of the listing with a digest."""
    return folder / digest[:16] / FILE


def is_listing(path: Path) -> bool:
    """Whether ``write_listing`` may have written a file: a regular Arrow file, not a link."""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _batches(items: Iterable[Item]) -> Iterator[pa.RecordBatch]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _AT_ONCE)):
        columns = zip(_SCHEMA.types, zip(*chunk, strict=True), strict=True)
        arrays = [pa.array(values, kind) for kind, values in columns]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _sorted(table: pa.Table) -> pa.Table:
    """Return the items in the order of their paths, and refuse two with one path."""
    paths = table["path"]
    if pc.all(pc.less(paths[:-1], paths[1:]), min_count=0).as_py():
        return table
    table = table.take(pc.sort_indices(paths)).combine_chunks()
    paths = table["path"]
    twin = pc.index(pc.equal(paths[:-1], paths[1:]), True).as_py()
    if twin >= 0:
        raise HeadstripError(
            f"Two images of the source have the path {paths[twin].as_py()!r}, and the path "
            "identifies a row. Leave one out, or rename it."
        )
    return table


def _digest(described: Mapping[str, Any], table: pa.Table) -> str:
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for start in range(0, table.num_rows, _AT_ONCE):
        part = table.slice(start, _AT_ONCE)
        for name in ("path", "container"):
            values = part[name].cast(pa.string()).to_pylist()
            digest.update(json.dumps(values).encode())
        for name in ("size", "modified", "offset"):
            digest.update(np.ascontiguousarray(part[name].to_numpy(), "<i8").tobytes())
        if pc.any(pc.greater(part["page"], 0)).as_py():
            digest.update(np.ascontiguousarray(part["page"].to_numpy(), "<i8").tobytes())
        if pc.any(pc.not_equal(part["kept"], "")).as_py():
            digest.update(json.dumps(part["kept"].to_pylist()).encode())
    return digest.hexdigest()
