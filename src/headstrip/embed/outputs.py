"""Which files a table of embeddings is in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from headstrip.embed.sources.items import Item, shown_place
from headstrip.errors import HeadstripError

ROWS = ".rows.parquet"
"""How the file ends that has the other columns of embeddings in an ``.npy``."""


def rows_file(out: Path) -> Path:
    """Return the file that has the paths and the metadata: ``out`` itself unless it is ``.npy``."""
    return out.with_name(out.name.removesuffix(".npy") + ROWS) if out.suffix == ".npy" else out


def embeddings_file(rows: Path) -> Path:
    """Return the file that has the embeddings of a file of rows."""
    return rows.with_name(rows.name.removesuffix(ROWS) + ".npy") if is_rows(rows) else rows


def is_rows(path: Path) -> bool:
    """Whether the embeddings of a file of rows are in an ``.npy`` beside it."""
    return path.name.endswith(ROWS)


def opened(path: Path) -> pa.OSFile:
    """Open a file for pyarrow, whose own names of files have to be UTF-8.

    Raises:
        OSError: It cannot be opened.
    """
    return pa.OSFile(os.fsencode(path))


def check_apart(described: Mapping[str, Any], out: Path) -> None:
    """Refuse to write a file in the place of the one that is the source.

    Args:
        described: What the source says of itself.
        out: The file to write, links resolved.

    Raises:
        HeadstripError: They are one file.
    """
    if described.get("where") in {shown_place(str(out)), shown_place(str(rows_file(out)))}:
        raise _is_source(out)


def refusing(items: Iterable[Item], out: Path) -> Iterator[Item]:
    """Yield the items of a source, and refuse to write in the place of one of their files.

    Raises:
        HeadstripError: A file of that name, written at the same moment, is of the source.
    """
    own = OwnFiles(out)
    for item in items:
        own.refuse(item)
        yield item


class OwnFiles:
    """The files that a run is to replace, as they are before it."""

    def __init__(self, out: Path) -> None:
        """Look when each of them was written."""
        files = (file for file in (out, rows_file(out)) if file.exists())
        self._out = out
        self._written = {file.name: os.stat(file).st_mtime_ns for file in files}

    def refuse(self, item: Item) -> None:
        """Refuse an item whose file is one of them.

        Raises:
            HeadstripError: It has the name, and was written at the same moment.
        """
        name = (item.place or item.path).rpartition("/")[2]
        if name in self._written and item.modified == self._written[name]:
            raise _is_source(self._out)


def _is_source(out: Path) -> HeadstripError:
    return HeadstripError(
        f"{str(out)!r} is a file of the source, and would be replaced. Name another file to write."
    )
