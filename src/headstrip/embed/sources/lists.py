"""Images that a file lists: a path a line, or a column of a table or of JSON objects."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.items import Item, failure, shown_place
from headstrip.embed.sources.opened import open_place, unreadable
from headstrip.embed.sources.rows import RowReader, listed
from headstrip.errors import HeadstripError

SUFFIXES = frozenset({".csv", ".jsonl", ".ndjson", ".tsv", ".txt"})
"""Suffixes of the lists that are text."""

_LONGEST_LINE = 1 << 20
_SAMPLE = 1 << 12
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""Encodings by how a file starts. UTF-32 comes first, as UTF-16 starts like it."""


@dataclass(frozen=True)
class ListSource:
    """The images that a file lists.

    Attributes:
        place: The list: an absolute path, or a url.
        suffix: What kind of list it is.
        column: Which column of a table, or key of JSON objects, has the paths.
        access: Which urls may be read.
    """

    place: str
    suffix: str
    column: str
    access: Access
    is_stream = False

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        kind = {"kind": "list", "where": shown_place(self.place), **self.access.describe()}
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
        except (OSError, UnicodeError, csv.Error) as error:
            raise unreadable(shown_place(self.place), failure(error)) from error

    def reader(self) -> RowReader:
        """Return what reads them."""
        return RowReader(self._root(), self.access)

    def _root(self) -> str:
        # A url has slashes on Windows too.
        return self.place.rpartition("/")[0] if is_url(self.place) else os.path.dirname(self.place)

    def _paths(self) -> Iterator[str]:
        if self.suffix == ".parquet":
            from headstrip.embed.sources.tables import texts_of_column

            yield from texts_of_column(self.place, self.column, self.access)
            return
        with open_place(self.place, self.access) as file, _text_of(file) as text:
            lines = self._lines(text)
            if self.suffix == ".txt":
                yield from self._plain(lines)
            elif self.suffix in {".csv", ".tsv"}:
                yield from self._cells(lines)
            else:
                yield from self._values(lines)

    def _lines(self, text: TextIO) -> Iterator[str]:
        while line := text.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise unreadable(
                    shown_place(self.place), f"a line has more than {_LONGEST_LINE} characters"
                )
            yield line

    def _plain(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            if path := line.rstrip("\r\n"):
                yield path

    def _cells(self, lines: Iterator[str]) -> Iterator[str]:
        shown, rows = shown_place(self.place), self._rows(lines)
        _, header = next(rows, (1, []))
        if self.column not in header:
            raise no_column(shown, self.column, header)
        if header.count(self.column) > 1:
            raise repeated(shown, self.column, "in its header")
        at = header.index(self.column)
        for start, row in rows:
            if not row:
                continue
            if at >= len(row) or not row[at]:
                raise no_path(shown, self.column, f"line {start}")
            yield row[at]

    def _rows(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each row, and the line that the row starts in."""
        # Otherwise a quote that is not closed makes one row of several, without an error.
        rows = csv.reader(lines, delimiter="\t" if self.suffix == ".tsv" else ",", strict=True)
        while True:
            start = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise self._bad_quote(start, rows.line_num, error) from error
            yield start, row

    def _bad_quote(self, start: int, end: int, error: csv.Error) -> HeadstripError:
        shown, said = shown_place(self.place), failure(error)
        if end > start or "unexpected end" in said:
            why = f"a quote in the row that starts in line {start} is not closed"
        elif "expected after" in said:
            why = f"line {start} has text behind a closing quote"
        else:
            return unreadable(shown, said)
        return HeadstripError(
            f"{shown!r} cannot be read: {why}. Close the quote; write a quote that belongs to a "
            'value twice ("").'
        )

    def _values(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield the paths of JSON objects, one a line."""
        shown, is_first = shown_place(self.place), True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_Object)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, _Object):
                raise unreadable(shown, f"line {number} is not a JSON object")
            if self.column in row.repeated:
                raise repeated(shown, self.column, f"in line {number}")
            if is_first and self.column not in row:
                raise no_column(shown, self.column, list(row))
            is_first = False
            value = row.get(self.column)
            if value and not isinstance(value, str):
                raise not_text(shown, self.column, value, f"line {number}")
            if not value:
                raise no_path(shown, self.column, f"line {number}")
            yield value


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys it has more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(pairs) > len(self) else Counter[str]()
        self.repeated = {key for key, count in counts.items() if count > 1}


def _text_of(file: BinaryIO) -> TextIO:
    """Read a file as text; bytes that are not UTF-8 become what file names have in their place."""
    encoding = _encoding(file.read(_SAMPLE))
    file.seek(0)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    # Lines end in LF, CR LF or CR, and quoted cells keep theirs.
    return io.TextIOWrapper(file, encoding, errors, newline="")


def _encoding(start: bytes) -> str:
    """Return how the text is encoded that starts with these bytes."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    # Without a mark: every other byte of Latin letters in UTF-16 is 0.
    zeros, pairs = (start[0::2].count(0), start[1::2].count(0)), len(start) // 2
    if not zeros[0] and zeros[1] > pairs / 3:
        return "utf-16-le"
    if not zeros[1] and zeros[0] > pairs / 3:
        return "utf-16-be"
    return "utf-8-sig"


def no_column(shown: str, column: str, columns: list[str]) -> HeadstripError:
    """Return the error of a list without the column that has its paths."""
    known = ", ".join(map(repr, columns[:8])) or "none"
    return HeadstripError(
        f"{shown!r} has no column {column!r}; its columns: {known}. "
        "Say which one has the paths, with --column or column=."
    )


def repeated(shown: str, column: str, where: str) -> HeadstripError:
    """Return the error of a list that has its column of paths more than once."""
    return HeadstripError(
        f"{shown!r} has {column!r} more than once {where}, and headstrip cannot tell which one is "
        "meant. Rename one of them, or take it out."
    )


def no_path(shown: str, column: str, where: str) -> HeadstripError:
    """Return the error of a row whose path is empty."""
    return HeadstripError(
        f"{shown!r} has no path in column {column!r} at {where}. Fill it in, or take it out."
    )


def not_text(shown: str, column: str, value: object, where: str) -> HeadstripError:
    """Return the error of a row whose path is of another kind than text."""
    return HeadstripError(
        f"The column {column!r} of {shown!r} has {repr(value)[:80]} at {where}, and paths are "
        "text. Say which column has them, with --column or column=."
    )
