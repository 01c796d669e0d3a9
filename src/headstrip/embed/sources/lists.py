"""Images that a file lists: one path per line, or a column of a table or of JSON objects."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.files import FileReader, item_of_row
from headstrip.embed.sources.items import (
    Item,
    Reader,
    listing_errors,
    reason_of,
    refuse_repeated,
    unreadable,
)
from headstrip.embed.sources.names import display_name
from headstrip.embed.sources.urls import open_location
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    import pyarrow as pa

    from headstrip.embed.sources.kept import Keep

SUFFIXES = frozenset({".csv", ".jsonl", ".ndjson", ".tsv", ".txt"})
"""Suffixes of the lists that are text."""

_LONGEST_LINE = 1 << 20
_ROWS_AT_ONCE = 1 << 12
_SAMPLE = 1 << 12
# UTF-32 comes first, as UTF-16 starts like it.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class ListSource:
    """The images that a file lists.

    Attributes:
        location: The list: an absolute path, or a url.
        suffix: The format of the list.
        column: The column of a table, or key of JSON objects, that has the paths.
        access: Which urls may be read.
        keep: Columns of a table that are copied into the file of embeddings.
    """

    location: str
    suffix: str
    column: str
    access: Access
    keep: Keep = ()

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        kind = {"kind": "list", "where": self._shown, **self.access.describe()}
        return kind if self.suffix == ".txt" else {**kind, "column": self.column}

    def items(self) -> Iterator[Item]:
        """List the images in the order of the list, missing ones too.

        Raises:
            HeadstripError: The list cannot be read, has no such column, or a row has no path.
        """
        with listing_errors(self._shown):
            for text, kept in self._rows():
                yield item_of_row(self._root, text)._replace(kept=kept)

    def reader(self) -> Reader:
        """Return the reader of the items."""
        return FileReader(self._root, self.access, is_list=True)

    def kept_fields(self) -> list[pa.Field]:
        """Return the columns that are copied into the file of embeddings.

        Raises:
            HeadstripError: The list cannot be read, or a column cannot be kept.
        """
        if not self.keep:
            return []
        import pyarrow as pa

        from headstrip.embed.sources.kept import kept_fields

        with listing_errors(self._shown):
            if self.suffix == ".parquet":
                from headstrip.embed.sources.tables import opened_table

                with opened_table(self.location, self._shown, self.access) as table:
                    schema = table.schema_arrow
                names, kinds = schema.names, {one.name: one.type for one in schema}
            else:
                with open_location(self.location, self.access) as file, text_of(file) as text:
                    names = next(self._csv_rows(self._lines(text)), [])
                kinds = dict.fromkeys(names, pa.string())
            return kept_fields(kinds, names, self.keep, self.column, self._shown)

    @property
    def _shown(self) -> str:
        return display_name(self.location)

    @property
    def _root(self) -> str:
        # A url has slashes on Windows too.
        is_remote = is_url(self.location)
        return self.location.rpartition("/")[0] if is_remote else os.path.dirname(self.location)

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Yield the path of each row, and the cells that are kept."""
        if self.suffix == ".parquet":
            yield from map(self._row, self._table_values())
            return
        with open_location(self.location, self.access) as file, text_of(file) as text:
            lines = self._lines(text)
            if self.suffix == ".txt":
                yield from ((line, "") for line in map(_without_end, lines) if line)
            elif self.suffix in {".csv", ".tsv"}:
                yield from map(self._row, self._csv_values(lines))
            else:
                yield from map(self._row, self._json_values(lines))

    def _row(self, found: tuple[str, Any, str]) -> tuple[str, str]:
        """Return the path that a row has, or raise where it stands and what is wrong."""
        where, value, kept = found
        if value is not None and not isinstance(value, (str, bytes)):
            raise HeadstripError(
                f"The column {self.column!r} of {self._shown!r} has {repr(value)[:80]} at {where}, "
                "and paths are text. Name the column that has them with --column or column=."
            )
        if not value:
            raise HeadstripError(
                f"{self._shown!r} has no path in column {self.column!r} at {where}. Fill it in, or "
                "remove the row."
            )
        try:
            kept.encode()
        except UnicodeEncodeError as error:
            raise HeadstripError(
                f"{self._shown!r} has text at {where} that is not UTF-8 but maybe Latin-1. Save "
                "the list as UTF-8, or keep other columns."
            ) from error
        return os.fsdecode(value), kept

    def _check_columns(self, columns: list[str], where: str) -> None:
        if self.column not in columns:
            known = ", ".join(map(repr, columns[:8])) or "none"
            raise HeadstripError(
                f"{self._shown!r} has no column {self.column!r}; its columns: {known}. "
                "Name the one that has the paths with --column or column=."
            )
        refuse_repeated(self._shown, self.column, columns, where)

    def _lines(self, text: TextIO) -> Iterator[str]:
        while line := text.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise unreadable(self._shown, f"a line has more than {_LONGEST_LINE} characters")
            yield line

    def _table_values(self) -> Iterator[tuple[str, Any, str]]:
        from headstrip.embed.sources.tables import opened_table

        start, names = 0, [field.name for field in self.kept_fields()]
        with opened_table(self.location, self._shown, self.access) as table:
            self._check_columns(table.schema_arrow.names, "among its columns")
            for batch in table.iter_batches(
                _ROWS_AT_ONCE, columns=[self.column, *names], use_threads=False
            ):
                kept = [batch[name].to_pylist() for name in names]
                for row, value in enumerate(batch[self.column].to_pylist()):
                    cells = _kept_text(names, [column[row] for column in kept])
                    yield f"row {start + row}", value, cells
                start += len(batch)

    def _csv_rows(self, lines: Iterator[str]) -> Any:
        # Without `strict`, a quote that is not closed silently joins several rows.
        return csv.reader(lines, delimiter="\t" if self.suffix == ".tsv" else ",", strict=True)

    def _csv_values(self, lines: Iterator[str]) -> Iterator[tuple[str, str | None, str]]:
        rows, start = self._csv_rows(lines), 1
        names = [field.name for field in self.kept_fields()]
        try:
            header: list[str] = next(rows, [])
            self._check_columns(header, "in its header")
            index = header.index(self.column)
            kept = [header.index(name) for name in names]
            start = rows.line_num + 1
            for row in rows:
                if row:
                    cells = [row[at] or None if at < len(row) else None for at in (index, *kept)]
                    yield f"line {start}", cells[0], _kept_text(names, cells[1:])
                start = rows.line_num + 1
        except csv.Error as error:
            raise self._bad_quote(start, rows.line_num, reason_of(error)) from error

    def _bad_quote(self, start: int, end: int, reason: str) -> HeadstripError:
        if end > start or "unexpected end" in reason:
            why = f"a quote in the row that starts in line {start} is not closed"
        elif "expected after" in reason:
            why = f"line {start} has text behind a closing quote"
        else:
            return unreadable(self._shown, reason)
        return HeadstripError(
            f"{self._shown!r} cannot be read: {why}. Close the quote; write a quote that belongs "
            'to a value twice ("").'
        )

    def _json_values(self, lines: Iterator[str]) -> Iterator[tuple[str, Any, str]]:
        is_first = True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_Object)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, _Object):
                raise unreadable(self._shown, f"line {number} is not a JSON object")
            if is_first or row.names.count(self.column) > 1:
                self._check_columns(row.names, f"in line {number}")
            is_first = False
            yield f"line {number}", row.get(self.column), ""


class _Object(dict[str, Any]):
    """A JSON object that knows its names as written, repeated ones too."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _kept_text(names: Sequence[str], cells: Sequence[Any]) -> str:
    """Return the cells of a row that are kept, as JSON; without any, pyarrow is not imported."""
    if not names:
        return ""
    from headstrip.embed.sources.kept import cells_text

    return cells_text(names, cells)


def _without_end(line: str) -> str:
    return line.rstrip("\r\n")


def text_of(file: BinaryIO) -> TextIO:
    """Read a file as text; bytes that are not UTF-8 become the surrogates that file names have."""
    encoding = _encoding(file.read(_SAMPLE))
    file.seek(0)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    # Lines end in LF, CR LF or CR, and quoted cells keep theirs.
    return io.TextIOWrapper(file, encoding, errors, newline="")


def _encoding(start: bytes) -> str:
    """Return the encoding of the text that starts with these bytes."""
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
