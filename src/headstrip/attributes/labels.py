"""Read tables of labels: CSV, TSV, Parquet, a DataFrame, or a folder per class.

This module imports no torch.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from headstrip.attributes.formulas import unescaped
from headstrip.embed.output.paths import rows_file
from headstrip.embed.sources.names import escape, is_image, stored_path
from headstrip.encoder.attribute import Kind
from headstrip.errors import HeadstripError, one_line
from headstrip.system.os_errors import explain

Cell: TypeAlias = str | float | int | bool | tuple[str, ...] | None
"""A label: text, a number, several labels, or None where it is missing."""

FOLDER_ATTRIBUTE = "class"
"""Name of the attribute for a folder that has one folder per class."""

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name")
"""Names of columns that may have the paths, if the caller does not name a column."""

SEPARATOR = "|"

# Text that pandas reads as missing. An empty cell is always missing.
_NAN_STRINGS = frozenset(
    {
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "-NaN", "nan", "-nan", "None", "n/a", "null"),
    }
)
_REMEDY = "Pass a .csv, .tsv or .parquet file, a DataFrame, or a folder with a folder per class."
_SHOWN = 8
_PARQUET = b"PAR1"


@dataclass(frozen=True)
class LabelTable:
    """Labels of images.

    Attributes:
        shown: Words for the table, for messages.
        paths: The paths, each once, as ``stored_path`` writes them.
        columns: The cells of each other column, one per path.
        repeated_rows: Number of rows left out because they are equal to an earlier row.
        nan_cells: Number of cells such as ``NaN`` that were read as missing.
        stripped_cells: Number of cells from which white space around the text was removed.
        unusable: Columns that cannot have labels, such as dates, with the type of their cells.
        path_column: Name of the column with the paths.
        kinds: Kinds that the table determines: names of folders are classes.
    """

    shown: str
    paths: list[str]
    columns: Mapping[str, list[Cell]] = field(repr=False)
    repeated_rows: int = 0
    nan_cells: int = 0
    stripped_cells: int = 0
    unusable: Mapping[str, str] = field(default_factory=dict)
    path_column: str = "path"
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of all columns except the paths, including columns that cannot have labels."""
        return [*self.columns, *self.unusable]

    def check_columns(self, names: Iterable[str]) -> None:
        """Refuse names of columns that the table does not have.

        Raises:
            HeadstripError: A name is not a column, or is the column of paths.
        """
        for name in names:
            if name not in self.names:
                known = ", ".join(f"{one!r:.60}" for one in self.names[:_SHOWN]) or "none"
                raise HeadstripError(
                    f"{self.shown} has no column {name!r:.60}; its columns of labels: {known}. "
                    "Name one of them."
                )

    def why_unusable(self, name: str) -> str | None:
        """Return why a column cannot have labels, or None if it can."""
        if name not in self.unusable:
            return None
        return (
            f"its cells are of the type {self.unusable[name]:.60}, and labels are text, numbers or "
            "lists of text"
        )


def read_labels(
    table: Any,
    *,
    path_column: str | None = None,
    path_prefix: str = "",
    keep_nan_strings: bool = False,
) -> LabelTable:
    """Read a table of labels.

    Args:
        table: The path of a CSV or TSV file with a header, of a Parquet file, or of a folder that
            has a folder of images per class; or a DataFrame of pandas or Polars, a table of
            pyarrow, or a mapping of names to columns.
        path_column: The column with the paths; by default the only one of ``PATH_COLUMNS``.
        path_prefix: Removed from the start of each path, such as ``photos/``.
        keep_nan_strings: Whether text such as ``NaN`` or ``NA`` is a label instead of a missing
            value. The name of a folder is always a label.

    Raises:
        HeadstripError: The table cannot be read, is not in UTF-8, has no column of paths, or has
            the same path twice with different labels.
    """
    kinds: dict[str, Kind] = {}
    if isinstance(table, (str, os.PathLike)):
        if Path(os.path.expanduser(table)).is_dir():
            # The name of a folder is always a class, even if it looks like a number.
            keep_nan_strings, kinds = True, {FOLDER_ATTRIBUTE: "class"}
        shown = repr(os.fspath(table))
        columns, unusable = _read_file(Path(os.path.expanduser(table)), shown)
    else:
        shown = f"The {type(table).__name__}"
        columns, unusable = _read_frame(table, shown)
    chosen = _path_column(columns, unusable, path_column, shown)
    paths = [_path(value, row, chosen, shown) for row, value in enumerate(columns.pop(chosen))]
    paths = [_without(path, path_prefix) for path in paths]
    _refuse_other_encodings(columns, shown)
    cells = {name: list(map(_cell, values)) for name, values in columns.items()}
    stripped = sum(
        isinstance(value, str) and value != value.strip()
        for values in columns.values()
        for value in values
    )
    nan_cells = 0
    if not keep_nan_strings:
        for values in cells.values():
            for row, value in enumerate(values):
                values[row] = _without_nan_strings(value)
                nan_cells += values[row] is not value
    return _without_repeats(
        LabelTable(shown, paths, cells, 0, nan_cells, stripped, unusable, chosen, kinds)
    )


Columns: TypeAlias = tuple[dict[str, list[Any]], dict[str, str]]
"""The cells of each column, and the types of the columns that cannot have labels."""


def _read_file(path: Path, shown: str) -> Columns:
    try:
        if path.is_dir():
            return _read_folder(path, shown)
        if not path.exists():
            raise HeadstripError(f"There is no table of labels {shown}. Check the path.")
        suffix = path.suffix.lower()
        if suffix in {".csv", ".tsv"}:
            return _read_csv(path, shown, "\t" if suffix == ".tsv" else ",")
        if suffix == ".npy" and rows_file(path).exists():
            return _read_parquet(rows_file(path), shown)
        if suffix == ".parquet" or _is_parquet(path):
            return _read_parquet(path, shown)
    except OSError as error:
        if error.errno is None:
            # The operating system's errors have an errno. Those of the Parquet reader do not.
            raise _unreadable(shown, error) from error
        raise HeadstripError(explain(error, f"{shown} cannot be read")) from error
    raise HeadstripError(f"{shown} is not a table of labels that headstrip reads. {_REMEDY}")


def _is_parquet(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_PARQUET)) == _PARQUET


def _read_folder(path: Path, shown: str) -> Columns:
    """List the images of a folder per class; the folder is the label."""
    paths: list[str] = []
    for folder, folders, files in os.walk(path):
        folders.sort()
        inside = os.path.relpath(folder, path)
        if inside != os.curdir:
            paths += [os.path.join(inside, name) for name in sorted(files) if is_image(name)]
    if not paths:
        raise HeadstripError(
            f"{shown} has no folder with images. Pass a folder that has one folder of images per "
            "class, or a table."
        )
    labels = [escape(os.fsencode(one.split(os.sep)[0])) for one in paths]
    return {"path": list(map(stored_path, paths)), FOLDER_ATTRIBUTE: labels}, {}


def _read_csv(path: Path, shown: str, delimiter: str) -> Columns:
    from headstrip.embed.sources.lists import text_of

    with open(path, "rb") as file, text_of(io.BytesIO(file.read())) as text:
        # Without `strict`, a missing closing quote silently joins several rows.
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = [unescaped(name.strip()) for name in next(rows, [])]
            found = [(rows.line_num, list(map(unescaped, row))) for row in rows if row]
        except UnicodeError as error:
            raise _unreadable(shown, error) from error
        except (csv.Error, ValueError) as error:
            raise HeadstripError(
                f"{shown} cannot be read at line {rows.line_num}: {one_line(error)}. Close each "
                'quote, and write a quote that belongs to a value twice ("").'
            ) from error
    for line, row in found:
        if len(row) != len(header):
            raise HeadstripError(
                f"{shown} has {len(row)} cells in the row that ends in line {line}, and "
                f"{len(header)} in its header. Quote values that contain a {delimiter!r}."
            )
    _refuse_repeated(header, shown)
    return {name: [row[at] for _, row in found] for at, name in enumerate(header)}, {}


def _read_parquet(path: Path, shown: str) -> Columns:
    import pyarrow as pa

    from headstrip.embed.output.damage import parquet_file
    from headstrip.embed.sources.kept import OWN_COLUMNS, is_label_type

    try:
        with parquet_file(path) as file:
            schema = file.schema_arrow
            _refuse_repeated(schema.names, shown)
            if b"headstrip" in (schema.metadata or {}):
                # This is a file of embeddings. Its labels are the columns that `--keep` copied.
                own = set(OWN_COLUMNS) - {"path"}
                schema = pa.schema([one for one in schema if one.name not in own])
            names = [one.name for one in schema if is_label_type(one.type)]
            return _from_arrow(schema, file.read(columns=names), shown)
    except (pa.ArrowException, EOFError, ValueError) as error:
        if isinstance(error, HeadstripError):
            raise
        raise _unreadable(shown, error) from error


def _read_frame(table: Any, shown: str) -> Columns:
    import pyarrow as pa

    mixed: dict[str, str] = {}
    try:
        if not isinstance(table, pa.Table):
            if not isinstance(table, Mapping) and not hasattr(table, "__arrow_c_stream__"):
                raise HeadstripError(f"{shown} is not a table of labels. {_REMEDY}")
            columns = getattr(table, "columns", ())
            _refuse_repeated(list(map(str, columns)), shown)
            table, mixed = _as_arrow(table)
        found, unusable = _from_arrow(table.schema, table, shown)
        return found, {**unusable, **mixed}
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, HeadstripError):
            raise
        raise _unreadable(shown, error) from error


def _as_arrow(table: Any) -> tuple[Any, dict[str, str]]:
    """Return the columns that Arrow can hold, and for each other column the types of its cells."""
    import pyarrow as pa

    try:
        return pa.table(table), {}
    except (pa.ArrowException, TypeError):
        names = list(table) if isinstance(table, Mapping) else list(getattr(table, "columns", ()))
        columns, mixed = {}, {}
        for name in names:
            try:
                columns[name] = pa.array(table[name], from_pandas=True)
            except (pa.ArrowException, TypeError):
                kinds = sorted({type(one).__name__ for one in table[name] if one is not None})
                mixed[name] = " and ".join(kinds)
        if not mixed:
            raise
        return pa.table(columns), mixed


def _from_arrow(schema: Any, table: Any, shown: str) -> Columns:
    """Return the columns of a table; it may lack columns of the schema that cannot have labels."""
    from headstrip.embed.sources.kept import is_label_type

    # pandas writes its index as a column with such a name.
    fields = [one for one in schema if not one.name.startswith("__index_level_")]
    names = [one.name for one in fields if is_label_type(one.type)]
    _refuse_repeated(names, shown)
    unusable = {one.name: str(one.type) for one in fields if one.name not in names}
    return {name: table.column(name).to_pylist() for name in names}, unusable


def _refuse_repeated(header: Sequence[str], shown: str) -> None:
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise HeadstripError(
            f"{shown} has the column {repeated[0]!r:.80} twice. Give each column its own name."
        )
    if any(not name.strip() for name in header):
        raise HeadstripError(
            f"{shown} has a column without a name, such as the index that pandas writes. Name it, "
            "or write the table with index=False."
        )


def _refuse_other_encodings(columns: Mapping[str, Sequence[Any]], shown: str) -> None:
    """Refuse text that is not UTF-8. ``columns`` has no paths, which may have any bytes."""
    for name, values in columns.items():
        for row, value in enumerate([name, *values]):
            if isinstance(value, str) and not value.isascii() and _has_bytes(value):
                text = escape(value.encode("utf-8", "surrogateescape"))
                where = f"in column {escape(name.encode('utf-8', 'surrogateescape'))!r:.60}"
                raise HeadstripError(
                    f"{shown} has {text!r:.60} {where} "
                    f"{f'at row {row}' if row else 'as its name'}, which is not UTF-8 but maybe "
                    "Latin-1. Save the table as UTF-8."
                )


def _path_column(
    header: Iterable[str], unusable: Mapping[str, str], chosen: str | None, shown: str
) -> str:
    header = list(header)
    known = ", ".join(f"{name!r:.60}" for name in header[:_SHOWN]) or "none"
    if chosen is not None:
        if chosen in unusable:
            raise HeadstripError(
                f"{shown} has the type {unusable[chosen]:.60} in its column {chosen!r:.80}, and "
                "paths are text. Name the one with the paths by --path-column (path_column=)."
            )
        if chosen not in header:
            raise HeadstripError(
                f"{shown} has no column {chosen!r:.80}; its columns: {known}. Name the one with "
                "the paths by --path-column (path_column=)."
            )
        return chosen
    found = [name for name in PATH_COLUMNS if name in header]
    if len(found) != 1:
        why = (
            f"{' and '.join(map(repr, found))} could each have the paths"
            if found
            else f"none of {', '.join(map(repr, PATH_COLUMNS))} is one of its columns ({known})"
        )
        raise HeadstripError(
            f"headstrip cannot find the paths in {shown}: {why}. Name the column with the paths by "
            "--path-column (path_column=)."
        )
    return found[0]


def _path(value: Any, row: int, column: str, shown: str) -> str:
    if not isinstance(value, str) or not value:
        raise HeadstripError(
            f"{shown} has {value!r:.80} in column {column!r:.80} at row {row + 1}, and a path is "
            "text. Fill it in, or name the column with the paths by --path-column (path_column=)."
        )
    # The name of a file may have bytes that are not UTF-8.
    path = stored_path(value) if not value.isascii() and _has_bytes(value) else value
    return path.removeprefix("./")


def _has_bytes(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _without(path: str, prefix: str) -> str:
    return path.removeprefix(prefix) if prefix else path


def _cell(value: Any) -> Cell:
    """Return a label, or None for an empty text, the number NaN or a list of missing values."""
    if isinstance(value, (list, tuple)):
        texts = tuple(one.strip() for one in value if isinstance(one, str))
        return texts if texts or not value else None
    if isinstance(value, str):
        value = value.strip()
    if isinstance(value, Decimal):
        value = float(value)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def _without_nan_strings(cell: Cell) -> Cell:
    """Return a cell with text such as ``NaN`` read as missing, also among several labels."""
    if isinstance(cell, tuple):
        known = tuple(one for one in cell if one not in _NAN_STRINGS)
        return cell if len(known) == len(cell) else known or None
    if not isinstance(cell, str):
        return cell
    if SEPARATOR not in cell:
        return None if cell in _NAN_STRINGS else cell
    labels = list(labels_in(cell))
    found = [one for one in labels if one not in _NAN_STRINGS]
    if len(found) == len(labels):
        return cell
    # The separator at the end shows that the cell has several labels, even if one is left.
    return SEPARATOR.join([*found, ""]) if found else None


def _without_repeats(table: LabelTable) -> LabelTable:
    """Leave out rows that are equal to an earlier row; refuse the same path with other labels."""
    first: dict[str, int] = {}
    kept: list[int] = []
    for row, path in enumerate(table.paths):
        other = first.setdefault(path, row)
        if other == row:
            kept.append(row)
            continue
        for name, cells in table.columns.items():
            if cells[row] != cells[other]:
                raise HeadstripError(
                    f"{table.shown} has the path {path!r:.120} twice with different labels: "
                    f"{name!r:.60} is {_shown_cell(cells[other])} in row {other + 1} and "
                    f"{_shown_cell(cells[row])} in row {row + 1}. Remove one of the rows."
                )
    columns = {name: [cells[row] for row in kept] for name, cells in table.columns.items()}
    repeated = len(table.paths) - len(kept)
    return replace(table, paths=[*first], columns=columns, repeated_rows=repeated)


def _shown_cell(cell: Cell) -> str:
    return "missing" if cell is None else f"{cell!r:.60}"


def _unreadable(shown: str, error: BaseException) -> HeadstripError:
    remedy = "Save it as UTF-8." if isinstance(error, UnicodeError) else _REMEDY
    reason = one_line(error, 200)
    return HeadstripError(f"{shown} cannot be read as a table of labels ({reason}). {remedy}")


def labels_in(cell: Cell) -> Iterator[str]:
    """Yield the labels in a cell: the items of a list, or the parts of text between ``|``."""
    if isinstance(cell, tuple):
        yield from cell
    elif cell is not None:
        yield from (one.strip() for one in str(cell).split(SEPARATOR) if one.strip())
