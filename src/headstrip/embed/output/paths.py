"""Which files a table of embeddings is in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from headstrip.embed.files import original_path
from headstrip.embed.sources import Item, Reader, is_url, joined, size_and_time
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
        HeadstripError: They are one file, whatever its names are.
    """
    where = described.get("where")
    if isinstance(where, str) and not is_url(where):
        OwnFiles(out, None).refuse_file(original_path(where))


def refusing(items: Iterable[Item], out: Path, reader: Reader) -> Iterator[Item]:
    """Yield the items of a source, and refuse to write in the place of one of their files.

    Raises:
        HeadstripError: A file of the source would be replaced.
    """
    own = OwnFiles(out, root_of(reader))
    for item in items:
        own.refuse(item)
        yield item


def root_of(reader: Reader) -> str | None:
    """Return the folder or url that a reader's items are named from, None where it has none."""
    root = getattr(reader, "root", None)
    return root if isinstance(root, str) else None


class OwnFiles:
    """The files that a run is to replace, as they are before it.

    Files are compared by device and inode, so that links of any kind and other spellings of a name
    are seen through.
    """

    def __init__(self, out: Path, root: str | None) -> None:
        """Look at each of them.

        Args:
            out: The file to write, links resolved.
            root: Where the names of items start; None compares names and times alone.
        """
        self._out, self._root = out, root
        found = {file.name: os.stat(file) for file in (out, rows_file(out)) if file.exists()}
        self._files = {(stat.st_dev, stat.st_ino) for stat in found.values()}
        # As items have it, which is not always as the file system has it.
        self._written = {name: size_and_time(stat)[1] for name, stat in found.items()}

    def refuse(self, item: Item) -> None:
        """Refuse an item whose file is one of them.

        Raises:
            HeadstripError: It is.
        """
        if not self._files:
            return
        name = item.container or item.path
        if self._root is None:
            last = name.rpartition("/")[2]
            if last in self._written and item.modified == self._written[last]:
                raise _is_source(self._out)
        # Files that are one file were written at one moment: most need no second look.
        elif not item.modified or item.modified in self._written.values():
            place = joined(self._root, name)
            if not is_url(place):
                self.refuse_file(place)

    def refuse_file(self, path: str | os.PathLike[str]) -> None:
        """Refuse a file that is one of them; a path that leads nowhere is none.

        Raises:
            HeadstripError: It is.
        """
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return
        if (found.st_dev, found.st_ino) in self._files:
            raise _is_source(self._out)


def _is_source(out: Path) -> HeadstripError:
    return HeadstripError(
        f"{str(out)!r} is a file of the source, and would be replaced. Name another file to write."
    )
