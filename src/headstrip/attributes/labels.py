"""Tables of labels: CSV, TSV, Parquet, a DataFrame, or a folder per class. No torch is imported."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from headstrip.embed.sources.names import escape, is_image, stored_path
from headstrip.errors import HeadstripError, one_line
from headstrip.system.os_errors import explain

Cell: TypeAlias = str | float | int | bool | tuple[str, ...] | None
"""A label: text, a number, several labels, or None where it is missing."""

FOLDER_ATTRIBUTE = "class"
"""Name of the attribute that the folders of a folder per class name."""

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name")
"""Columns that have the paths, if the caller does not name one."""

SEPARATOR = "|"

# What pandas reads as missing, except for the empty cell, which always is.
_NAN_STRINGS = frozenset(
    {
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "-NaN", "nan", "-nan", "None", "n/a", "null"),
    }
)
_REMEDY = "Pass a .csv, .tsv or .parquet file, a DataFrame, or a folder with a folder per class."
_SHOWN = 8


@dataclass(frozen=True)
class LabelTable:
    """Labels of images.

    Attributes:
        shown: What the table is, for messages.
        paths: The paths, each once, as ``stored_path`` writes them.
        columns: The cells of each other column, one per path.
        repeated_rows: Number of rows left out because an equal row was there before.
        nan_cells: Number of cells such as ``NaN`` that were read as missing.
    """

    shown: str
    paths: list[str]
    columns: Mapping[str, list[Cell]] = field(repr=False)
    repeated_rows: int = 0
    nan_cells: int = 0


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
        keep_nan_strings: Whether text such as ``NaN`` or ``NA`` is a label, instead of missing.

    Raises:
        HeadstripError: The table cannot be read, has no column of paths, or has a path twice with
            different labels.
    """
    if isinstance(table, (str, os.PathLike)):
        shown = repr(os.fspath(table))
        header, columns = _read_file(Path(table).expanduser(), shown)
    else:
        shown = f"The {type(table).__name__}"
        header, columns = _read_frame(table, shown)
    chosen = _path_column(header, path_column, shown)
    paths = [_path(value, row, chosen, shown) for row, value in enumerate(columns.pop(chosen))]
    paths = [_without(path, path_prefix) for path in paths]
    cells = {name: list(map(_cell, values)) for name, values in columns.items()}
    nan_cells = 0
    if not keep_nan_strings:
        for values in cells.values():
            for row, value in enumerate(values):
                if isinstance(value, str) and value in _NAN_STRINGS:
                    values[row], nan_cells = None, nan_cells + 1
    return _without_repeats(LabelTable(shown, paths, cells, 0, nan_cells))


def _read_file(path: Path, shown: str) -> tuple[list[str], dict[str, list[Any]]]:
    try:
        if path.is_dir():
            return _read_folder(path, shown)
        if not path.exists():
            raise HeadstripError(f"There is no table of labels {shown}. Check the path.")
        suffix = path.suffix.lower()
        if suffix in {".csv", ".tsv"}:
            return _read_csv(path, shown, "\t" if suffix == ".tsv" else ",")
        if suffix == ".parquet":
            return _read_parquet(path, shown)
    except OSError as error:
        if error.errno is None:
            # An OSError of the system has a number; one that the Parquet reader raises has none.
            raise _unreadable(shown, error) from error
        raise HeadstripError(explain(error, f"{shown} cannot be read")) from error
    raise HeadstripError(f"{shown} is not a table of labels that headstrip reads. {_REMEDY}")


def _read_folder(path: Path, shown: str) -> tuple[list[str], dict[str, list[Any]]]:
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
    columns = {"path": list(map(stored_path, paths)), FOLDER_ATTRIBUTE: labels}
    return list(columns), columns


def _read_csv(path: Path, shown: str, delimiter: str) -> tuple[list[str], dict[str, list[Any]]]:
    from headstrip.embed.sources.lists import text_of

    with open(path, "rb") as file, text_of(io.BytesIO(file.read())) as text:
        # Without `strict`, a quote that is not closed silently joins several rows.
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            found = [(rows.line_num, row) for row in rows if row]
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
    columns = {name: [row[at] for _, row in found] for at, name in enumerate(header)}
    return header, columns


def _read_parquet(path: Path, shown: str) -> tuple[list[str], dict[str, list[Any]]]:
    import pyarrow as pa

    from headstrip.embed.output.damage import parquet_file

    try:
        with parquet_file(path) as file:
            names = [one.name for one in file.schema_arrow if _is_label(one.type)]
            _refuse_repeated(file.schema_arrow.names, shown)
            return _from_arrow(file.read(columns=names), shown)
    except (pa.ArrowException, EOFError, ValueError) as error:
        if isinstance(error, HeadstripError):
            raise
        raise _unreadable(shown, error) from error


def _read_frame(table: Any, shown: str) -> tuple[list[str], dict[str, list[Any]]]:
    import pyarrow as pa

    try:
        if not isinstance(table, pa.Table):
            if not isinstance(table, Mapping) and not hasattr(table, "__arrow_c_stream__"):
                raise HeadstripError(f"{shown} is not a table of labels. {_REMEDY}")
            columns = getattr(table, "columns", ())
            _refuse_repeated(list(map(str, columns)), shown)
            table = pa.table(table)
        return _from_arrow(table, shown)
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, HeadstripError):
            raise
        raise _unreadable(shown, error) from error


def _from_arrow(table: Any, shown: str) -> tuple[list[str], dict[str, list[Any]]]:
    # pandas hands on its index under such a name.
    fields = [one for one in table.schema if not one.name.startswith("__index_level_")]
    names = [one.name for one in fields if _is_label(one.type)]
    _refuse_repeated(names, shown)
    return names, {name: table.column(name).to_pylist() for name in names}


def _is_label(kind: Any) -> bool:
    """Whether a column can be one of labels: text, numbers, or lists of text."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(_is_text(kind) or is_number or types.is_null(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    views = getattr(types, "is_string_view", None)
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or (views is not None and views(kind))
    )


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


def _path_column(header: Sequence[str], chosen: str | None, shown: str) -> str:
    known = ", ".join(f"{name!r:.60}" for name in header[:_SHOWN]) or "none"
    if chosen is not None:
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
    # Bytes of a CSV that are not UTF-8 are those of a file name.
    path = stored_path(value) if not value.isascii() and _has_bytes(value) else value
    return path.removeprefix("./")


def _has_bytes(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _without(path: str, prefix: str) -> str:
    return path.removeprefix(prefix) if prefix else path


def _cell(value: Any) -> Cell:
    """Return a label; an empty text and the number NaN are missing."""
    if isinstance(value, (list, tuple)):
        return tuple(one for one in value if isinstance(one, str))
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def _without_repeats(table: LabelTable) -> LabelTable:
    """Leave out rows that are equal to an earlier row; refuse those with other labels."""
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
    return LabelTable(table.shown, [*first], columns, repeated, table.nan_cells)


def _shown_cell(cell: Cell) -> str:
    return "missing" if cell is None else f"{cell!r:.60}"


def _unreadable(shown: str, error: BaseException) -> HeadstripError:
    reason = one_line(error)[:200].rstrip(".")
    return HeadstripError(f"{shown} cannot be read as a table of labels ({reason}). {_REMEDY}")


def labels_in(cell: Cell) -> Iterator[str]:
    """Yield the labels in a cell: those of a list, or of text split at ``|``."""
    if isinstance(cell, tuple):
        yield from cell
    elif cell is not None:
        yield from (one.strip() for one in str(cell).split(SEPARATOR) if one.strip())
