"""The files of one set of embeddings, and the check that none of them replaces its source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from headstrip.embed.sources import Item, Reader, is_url, joined, original_path, size_and_time
from headstrip.errors import HeadstripError

ROWS = ".rows.parquet"
"""Suffix of the file with the other columns of embeddings in an ``.npy``."""


def rows_file(out: Path) -> Path:
    """Return the file of paths and metadata: ``out`` itself unless it is an ``.npy``."""
    return out.with_name(out.name.removesuffix(".npy") + ROWS) if out.suffix == ".npy" else out


def embeddings_file(rows: Path) -> Path:
    """Return the file with the embeddings of a file of rows."""
    return rows.with_name(rows.name.removesuffix(ROWS) + ".npy") if is_rows(rows) else rows


def is_rows(path: Path) -> bool:
    """Whether the embeddings of a file of rows are in an ``.npy`` beside it."""
    return path.name.endswith(ROWS)


def open_for_arrow(path: Path) -> pa.OSFile:
    """Open a file for pyarrow, which by itself opens only names in UTF-8.

    Raises:
        OSError: The file cannot be opened.
    """
    return pa.OSFile(os.fsencode(path))


def check_not_source(described: Mapping[str, Any], out: Path) -> None:
    """Refuse to replace the file that is the source, such as a list or an archive.

    Args:
        described: What the source's ``describe`` returns.
        out: The file to write, links resolved.

    Raises:
        HeadstripError: They are one file, under the same name or different names.
    """
    where = described.get("where")
    if isinstance(where, str) and not is_url(where):
        OutputFiles(out, None).check_file(original_path(where))


def check_items(items: Iterable[Item], out: Path, reader: Reader) -> Iterator[Item]:
    """Yield the items of a source, and refuse to replace the file of one of them.

    Raises:
        HeadstripError: A file of the source would be replaced.
    """
    output = OutputFiles(out, root_of(reader))
    for item in items:
        output.check_item(item)
        yield item


def root_of(reader: Reader) -> str | None:
    """Return the folder or url that the names of a reader's items start from, None without one."""
    root = getattr(reader, "root", None)
    return root if isinstance(root, str) else None


class OutputFiles:
    """The existing files that a run is about to replace.

    Files are compared by device and inode, so that links and other spellings of a name do not hide
    that two names are one file.
    """

    def __init__(self, out: Path, root: str | None) -> None:
        """Look up each file.

        Args:
            out: The file to write, links resolved.
            root: Where the names of items start; without one, names and times are compared.
        """
        self._out, self._root = out, root
        found = {file.name: os.stat(file) for file in (out, rows_file(out)) if file.exists()}
        self._identities = {(stat.st_dev, stat.st_ino) for stat in found.values()}
        # Clipped as the times of items are, which hold fewer values than a file system.
        self._modified = {name: size_and_time(stat)[1] for name, stat in found.items()}

    def check_item(self, item: Item) -> None:
        """Refuse an item whose file the run would replace.

        Raises:
            HeadstripError: The file is one of these.
        """
        if not self._identities:
            return
        name = item.container or item.path
        if self._root is None:
            last = name.rpartition("/")[2]
            if last in self._modified and item.modified == self._modified[last]:
                raise self._replaces_source()
        # One file has one time, so most items need no look at their file.
        elif not item.modified or item.modified in self._modified.values():
            location = joined(self._root, name)
            if not is_url(location):
                self.check_file(location)

    def check_file(self, path: str | os.PathLike[str]) -> None:
        """Refuse a file that the run would replace; a path that leads nowhere passes.

        Raises:
            HeadstripError: The file is one of these.
        """
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return
        if (found.st_dev, found.st_ino) in self._identities:
            raise self._replaces_source()

    def _replaces_source(self) -> HeadstripError:
        return HeadstripError(
            f"{str(self._out)!r} is a file of the source, and the run would replace it. Name "
            "another file to write."
        )
