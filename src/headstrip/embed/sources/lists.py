"""Images that a file lists: a path a line, or a column of a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from headstrip.embed.files import stored_path
from headstrip.embed.sources.files import FilesReader
from headstrip.embed.sources.items import Item, failure, is_url, shown_place
from headstrip.embed.sources.opened import joined, open_place, unreadable
from headstrip.embed.sources.trees import stamp_of
from headstrip.errors import HeadstripError

_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class ListSource:
    """The images that a file lists.

    Attributes:
        place: The list: an absolute path, or a url.
        suffix: What kind of list it is.
        column: Which column of a table has the paths.
    """

    place: str
    suffix: str
    column: str
    is_stream = False

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        kind = {"kind": "list", "where": shown_place(self.place)}
        return kind if self.suffix == ".txt" else {**kind, "column": self.column}

    def items(self) -> Iterator[Item]:
        """List the images, in the order of the list; one that is missing is listed as well.

        Raises:
            HeadstripError: The list cannot be read, has no such column, or a row has no path.
        """
        root = self._root()
        try:
            for path in self._paths():
                yield listed(root, path)
        except (OSError, csv.Error) as error:
            raise unreadable(shown_place(self.place), failure(error)) from error

    def reader(self) -> FilesReader:
        """Return what reads them."""
        return FilesReader(self._root())

    def _root(self) -> str:
        # A url has slashes on Windows too.
        return self.place.rpartition("/")[0] if is_url(self.place) else os.path.dirname(self.place)

    def _paths(self) -> Iterator[str]:
        if self.suffix == ".parquet":
            from headstrip.embed.sources.tables import texts_of_column

            yield from texts_of_column(self.place, self.column)
            return
        with open_place(self.place) as file:
            lines = self._lines(file)
            yield from self._plain(lines) if self.suffix == ".txt" else self._cells(lines)

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        """Yield lines with bytes that are not UTF-8 as the file system's names have them."""
        start = True
        while line := file.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise unreadable(
                    shown_place(self.place), f"a line has more than {_LONGEST_LINE} bytes"
                )
            text = line.decode("utf-8", "surrogateescape")
            yield text.removeprefix("\ufeff") if start else text
            start = False

    def _plain(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            if path := line.rstrip("\r\n"):
                yield path

    def _cells(self, lines: Iterator[str]) -> Iterator[str]:
        rows = csv.reader(lines, delimiter="\t" if self.suffix == ".tsv" else ",")
        header = next(rows, [])
        if self.column not in header:
            raise no_column(shown_place(self.place), self.column, header)
        at = header.index(self.column)
        for row in rows:
            if not row:
                continue
            if at >= len(row) or not row[at]:
                raise no_path(shown_place(self.place), self.column, f"line {rows.line_num}")
            yield row[at]


def listed(root: str, path: str) -> Item:
    """Return the item of a path that someone wrote; relative ones start at ``root``."""
    name = path.replace("\\", r"\x5c") if is_url(path) else stored_path(path)
    name = name.encode("utf-8", "backslashreplace").decode()
    place = joined(root, name)
    return Item(name, 0, 0) if is_url(place) else Item(name, *stamp_of(place))


def no_column(shown: str, column: str, columns: list[str]) -> HeadstripError:
    """Return the error of a list without the column that has its paths."""
    known = ", ".join(map(repr, columns[:8])) or "none"
    return HeadstripError(
        f"{shown!r} has no column {column!r}; its columns: {known}. "
        "Say which one has the paths, with --column or column=."
    )


def no_path(shown: str, column: str, where: str) -> HeadstripError:
    """Return the error of a row whose path is empty."""
    return HeadstripError(
        f"{shown!r} has no path in column {column!r} at {where}. Fill it in, or take it out."
    )
