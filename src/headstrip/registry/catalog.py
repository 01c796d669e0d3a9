"""Catalogs: the names, widths and weights of a source, as two files of tab-separated values.

``catalog.tsv`` has one row per architecture, ``weights.tsv`` one row per set of weights. Both are
in the package of their distribution, and a tool writes them. A row is a claim that a build checks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

from headstrip.errors import CatalogError, PreprocessingError
from headstrip.images.preprocessing import Preprocessing
from headstrip.spec import (
    LAWS,
    SIZES,
    TASKS,
    BackboneSpec,
    Law,
    Pairs,
    Sizes,
    Task,
    WeightsEntry,
    freeze,
    is_backbone,
)
from headstrip.system import bounded_json
from headstrip.system.atomic import write_atomically

CATALOG_COLUMNS = (
    "name",
    "source",
    "family",
    "plugin",
    "task",
    "input_shape",
    "dim",
    "params",
    "law",
    "default_weights",
    "options",
    "sizes",
    "channels",
    "strides",
)
WEIGHTS_COLUMNS = (
    "name",
    "tag",
    "locations",
    "sha256",
    "options",
    "num_classes",
    "input_shape",
    "labels",
    "preprocessing",
    "license",
    "metrics",
)

UNREADABLE = (ValueError, TypeError, AttributeError, RecursionError, PreprocessingError)
"""The errors that parsing a row may raise."""

_MAX_CELL_BYTES = 1 << 20
_REWRITE = "Write the file again with `headstrip catalog write FOLDER`: the folder of the plugin."

_Value = TypeVar("_Value", BackboneSpec, WeightsEntry)


def read_catalog(path: Path) -> list[BackboneSpec]:
    """Read the architectures of ``catalog.tsv``, in the order of the file.

    Raises:
        CatalogError: The file or a row of it cannot be read, or two rows have the same name.
    """
    # Catalogs of earlier versions have no sizes and no feature maps.
    rows = _read_rows(path, CATALOG_COLUMNS, later=3)
    _refuse_duplicates(path, [(row[0],) for row in rows])
    return [_parsed_row(path, row, spec_from_row) for row in rows]


def write_catalog(path: Path, specs: Iterable[BackboneSpec]) -> None:
    """Write ``catalog.tsv`` completely or not at all, sorted by name.

    Raises:
        CatalogError: Reading a value back would not give the same value (it has a tab or a line
            break, for example), or two rows have the same name.
    """
    ordered = sorted(specs, key=lambda spec: spec.name)
    rows = [row_of_spec(spec) for spec in ordered]
    _refuse_duplicates(path, [(spec.name,) for spec in ordered])
    _write_rows(path, CATALOG_COLUMNS, rows)


class WeightsTable:
    """The sets of weights of ``weights.tsv``; a row is parsed when a caller asks for it."""

    def __init__(self, path: Path) -> None:
        """Read the file's lines.

        Raises:
            CatalogError: The file cannot be read, or two rows have the same architecture and tag.
        """
        self.path = path
        self._rows: dict[str, list[list[str]]] = {}
        rows = _read_rows(path, WEIGHTS_COLUMNS)
        _refuse_duplicates(path, [(row[0], row[1]) for row in rows])
        for row in rows:
            self._rows.setdefault(row[0], []).append(row)

    def entries(self, name: str) -> tuple[WeightsEntry, ...]:
        """Return the sets of weights of one architecture, the default first.

        Raises:
            CatalogError: A row cannot be read.
        """
        rows = self._rows.get(name, [])
        return tuple(_parsed_row(self.path, row, entry_from_row) for row in rows)

    def names(self) -> tuple[str, ...]:
        """Return the architectures that have weights, in the order of the file."""
        return tuple(self._rows)


def write_weights(path: Path, entries: Iterable[tuple[str, WeightsEntry]]) -> None:
    """Write ``weights.tsv`` completely or not at all.

    Args:
        path: Path of the file.
        entries: Pairs of architecture and weights, the default of each architecture first.

    Raises:
        CatalogError: Reading a value back would not give the same value (it has a tab or a line
            break, for example), or two rows have the same architecture and tag.
    """
    pairs = list(entries)
    rows = [row_of_entry(name, entry) for name, entry in pairs]
    _refuse_duplicates(path, [(name, entry.tag) for name, entry in pairs])
    _write_rows(path, WEIGHTS_COLUMNS, rows)


def read_labels(path: Path, count: int | None) -> tuple[str, ...]:
    """Read the class labels of a file, one per line.

    Args:
        path: The file.
        count: The required number of labels, None for any number.

    Raises:
        CatalogError: The file cannot be read, or has another number of labels.
    """
    labels = tuple(_read_text(path).rstrip("\n").split("\n"))
    if count is not None and len(labels) != count:
        raise CatalogError(
            f"{path} has {len(labels)} labels, and the weights that name it have {count} classes. "
            "Report it to the author of the plugin that has this file."
        )
    return labels


def row_of_spec(spec: BackboneSpec) -> list[str]:
    """Write an architecture as a row of ``catalog.tsv``.

    Raises:
        CatalogError: Reading a value back would not give the same value.
    """
    if not is_backbone(spec.name):
        raise CatalogError(
            f"{spec.name!r} cannot be a row of a catalog: it is not a backbone's name, such as "
            "'resnet50'. Choose another name."
        )
    return _checked_row(spec.name, spec, _cells_of_spec, spec_from_row)


def row_of_entry(name: str, entry: WeightsEntry) -> list[str]:
    """Write a set of weights of the architecture ``name`` as a row of ``weights.tsv``.

    Raises:
        CatalogError: Reading a value back would not give the same value.
    """
    return _checked_row(name, entry, partial(_cells_of_entry, name), entry_from_row)


def spec_from_row(row: list[str]) -> BackboneSpec:
    """Parse a row of ``catalog.tsv``; raises one of ``UNREADABLE``."""
    name, source, family, plugin, task, shape, dim, params, law, default, *later = row
    options, sizes, channels, strides = later
    if not name or task not in TASKS or law not in LAWS or (sizes and sizes not in SIZES):
        raise ValueError(
            f"one of name={name!r}, task={task!r}, law={law!r} and sizes={sizes!r} is not allowed"
        )
    if channels.count(",") != strides.count(",") or bool(channels) != bool(strides):
        raise ValueError(f"channels={channels!r} and strides={strides!r} have different lengths")
    return BackboneSpec(
        name,
        source,
        family,
        plugin,
        cast("Task", task),
        parse_shape(shape),
        dim=_count("dim", dim, least=1),
        params=_count("params", params),
        default_weights=default or None,
        options=_pairs(options),
        law=cast("Law", law),
        sizes=cast("Sizes", sizes) if sizes else None,
        channels=_counts("channels", channels),
        strides=_counts("strides", strides),
    )


def entry_from_row(row: list[str]) -> WeightsEntry:
    """Parse a row of ``weights.tsv``; raises one of ``UNREADABLE``."""
    cells = dict(zip(WEIGHTS_COLUMNS, row, strict=True))
    name, tag, classes, shape = (
        cells[key] for key in ("name", "tag", "num_classes", "input_shape")
    )
    steps = cells["preprocessing"]
    if not name or not tag:
        raise ValueError(f"name={name!r} or tag={tag!r} is empty")
    return WeightsEntry(
        tag=tag,
        locations=_texts(cells["locations"]),
        sha256=cells["sha256"],
        options=_pairs(cells["options"]),
        num_classes=_count("num_classes", classes, least=1) if classes else None,
        input_shape=parse_shape(shape) if shape else None,
        labels=cells["labels"] or None,
        preprocessing=Preprocessing.from_json(_parsed(steps)) if steps else None,
        license=cells["license"] or None,
        metrics=_pairs(cells["metrics"]),
    )


@cache
def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``3x224x224`` as (3, 224, 224).

    Raises:
        ValueError: ``text`` is not positive integers joined by ``x``.
    """
    return tuple(_count("input_shape", size, least=1) for size in text.split("x"))


def format_shape(shape: Sequence[int]) -> str:
    """Write (3, 224, 224) as ``3x224x224``."""
    return "x".join(map(str, shape))


def _cells_of_spec(spec: BackboneSpec) -> list[str]:
    return [
        spec.name,
        spec.source,
        spec.family,
        spec.plugin,
        spec.task,
        format_shape(spec.input_shape),
        str(spec.dim),
        str(spec.params),
        spec.law,
        spec.default_weights or "",
        _dump(dict(spec.options)),
        spec.sizes or "",
        ",".join(map(str, spec.channels)),
        ",".join(map(str, spec.strides)),
    ]


def _cells_of_entry(name: str, entry: WeightsEntry) -> list[str]:
    return [
        name,
        entry.tag,
        _dump(list(entry.locations)),
        entry.sha256,
        _dump(dict(entry.options)),
        "" if entry.num_classes is None else str(entry.num_classes),
        "" if entry.input_shape is None else format_shape(entry.input_shape),
        entry.labels or "",
        "" if entry.preprocessing is None else _dump(entry.preprocessing.to_json()),
        entry.license or "",
        _dump(dict(entry.metrics)),
    ]


def _checked_row(
    name: str,
    value: _Value,
    to_row: Callable[[_Value], list[str]],
    from_row: Callable[[list[str]], _Value],
) -> list[str]:
    """Make the row of a value, and refuse a row that is not read back as the same value."""
    about = f"{name!r} cannot be a row of a catalog"
    try:
        row = to_row(value)
        "".join(row).encode()
        back = from_row(row)
    except UNREADABLE as error:
        reason = str(error).removesuffix(".")
        raise CatalogError(
            f"{about} ({reason}). Correct this value: options and metrics have what JSON has, "
            "which is text, finite numbers, true, false, null, lists and objects."
        ) from error
    if name.startswith("#"):
        raise CatalogError(f"{about}: it begins with '#'. Choose another name.")
    if broken := [cell for cell in row if set(cell) & set("\t\n\r")]:
        raise CatalogError(
            f"{about}: it contains a tab or a line break, in {broken[0]!r:.200}. Remove it there."
        )
    keys = [field.name for field in fields(value)]
    lost = [key for key in keys if _comparable(value, key) != _comparable(back, key)]
    if lost:
        raise CatalogError(
            f"{about}: written as text and read again, {' and '.join(lost)} would not be the same. "
            "Use tuples instead of lists, and None instead of an empty value."
        )
    return row


def _comparable(value: _Value, key: str) -> Any:
    """Return one field for a comparison. The order of pairs does not matter, so sort them."""
    found = getattr(value, key)
    return freeze(dict(found)) if key in {"options", "metrics"} else found


def _parsed_row(path: Path, row: list[str], parse: Callable[[list[str]], _Value]) -> _Value:
    try:
        return parse(row)
    except UNREADABLE as error:
        raise CatalogError(
            f"The row of {row[0]!r} in {path} cannot be read ({error}). {_REWRITE}"
        ) from error


def _read_rows(path: Path, columns: tuple[str, ...], later: int = 0) -> list[list[str]]:
    """Return the cells of each row.

    Args:
        path: The file.
        columns: The names in its first line.
        later: How many of the last columns the file may lack; their cells are empty then.
    """
    lines = _read_text(path).split("\n")
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    named = tuple(rows[0]) if rows else ()
    if named not in {columns[: len(columns) - missing] for missing in range(later + 1)}:
        raise CatalogError(
            f"{path} is not a catalog: its first line must name the columns "
            f"{', '.join(columns)}. {_REWRITE}"
        )
    for row in rows[1:]:
        if len(row) != len(named):
            raise CatalogError(
                f"The row of {row[0]!r} in {path} has {len(row)} columns instead of "
                f"{len(named)}. {_REWRITE}"
            )
        row.extend([""] * (len(columns) - len(named)))
    return rows[1:]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(
            f"{path} cannot be read ({error}). Install its distribution again."
        ) from error


def _write_rows(path: Path, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    text = "".join("\t".join(row) + "\n" for row in (list(columns), *rows))
    write_atomically(path, text.encode())


def _refuse_duplicates(path: Path, keys: Sequence[tuple[str, ...]]) -> None:
    if len(set(keys)) != len(keys):
        twice = sorted(".".join(key) for key, count in Counter(keys).items() if count > 1)
        raise CatalogError(
            f"Rows of {path} have the same name: {', '.join(twice)}. Name each of them once."
        )


def _count(name: str, text: str, least: int = 0) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{name} must have integers, got {text!r:.100}") from None
    if number < least:
        raise ValueError(f"{name} must have integers of {least} or more, got {number}")
    return number


@cache
def _counts(name: str, text: str) -> tuple[int, ...]:
    """Parse numbers joined by commas, once for all rows that have the same."""
    return tuple(_count(name, one, least=1) for one in text.split(",") if text)


@cache
def _pairs(text: str) -> Pairs:
    data = _parsed(text) if text else {}
    if not isinstance(data, dict):
        raise ValueError(f"{text} is not a JSON object")
    return cast("Pairs", freeze(data))


def _texts(text: str) -> tuple[str, ...]:
    data = _parsed(text) if text else []
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise ValueError(f"{text} is not a JSON array of strings")
    return tuple(data)


def _parsed(text: str) -> Any:
    return bounded_json.parse(text, "a cell", max_bytes=_MAX_CELL_BYTES)


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False) if value else ""
