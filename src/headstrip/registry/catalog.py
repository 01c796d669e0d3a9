"""Catalogs: the names, widths and weights of a source, as two files of tab-separated values.

``catalog.tsv`` has a row an architecture, ``weights.tsv`` a row a set of weights; both lie in the
package of their distribution and are written by a tool. A row is a claim that a build verifies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from headstrip.errors import CatalogError
from headstrip.registry.rows import (
    CATALOG_COLUMNS,
    UNREADABLE,
    WEIGHTS_COLUMNS,
    entry_from_row,
    row_of_entry,
    row_of_spec,
    spec_from_row,
)
from headstrip.registry.rows import format_shape as format_shape
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.system.atomic import write_atomically

_Read = TypeVar("_Read")


def read_catalog(path: Path) -> list[BackboneSpec]:
    """Read the architectures of ``catalog.tsv``, in the order of the file.

    Raises:
        CatalogError: The file cannot be read, a row is not one of a catalog, or two share a name.
    """
    rows = _read_rows(path, CATALOG_COLUMNS)
    _refuse_twice(path, [(row[0],) for row in rows])
    return [_guarded(path, row, spec_from_row) for row in rows]


def write_catalog(path: Path, specs: Iterable[BackboneSpec]) -> None:
    """Write ``catalog.tsv`` whole or not at all, sorted by name.

    Raises:
        CatalogError: A value would not be read back as it is, one with a tab or a line break in
            it for example, or two rows share a name.
    """
    ordered = sorted(specs, key=lambda spec: spec.name)
    rows = [row_of_spec(spec) for spec in ordered]
    _refuse_twice(path, [(spec.name,) for spec in ordered])
    _write_rows(path, CATALOG_COLUMNS, rows)


class WeightsTable:
    """The sets of weights of ``weights.tsv``; a row is parsed when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Read the file's lines.

        Raises:
            CatalogError: The file cannot be read, or two rows share architecture and tag.
        """
        self.path = path
        self._rows: dict[str, list[list[str]]] = {}
        rows = _read_rows(path, WEIGHTS_COLUMNS)
        _refuse_twice(path, [(row[0], row[1]) for row in rows])
        for row in rows:
            self._rows.setdefault(row[0], []).append(row)

    def entries(self, name: str) -> tuple[WeightsEntry, ...]:
        """Return the sets of weights of one architecture, the default first.

        Raises:
            CatalogError: A row is not one of a weights table.
        """
        rows = self._rows.get(name, [])
        return tuple(_guarded(self.path, row, entry_from_row) for row in rows)

    def names(self) -> tuple[str, ...]:
        """Return the architectures that have weights, in the order of the file."""
        return tuple(self._rows)


def write_weights(path: Path, entries: Iterable[tuple[str, WeightsEntry]]) -> None:
    """Write ``weights.tsv`` whole or not at all.

    Args:
        path: Where to.
        entries: Pairs of architecture and weights, each architecture's default first.

    Raises:
        CatalogError: A value would not be read back as it is, one with a tab or a line break in
            it for example, or two rows share architecture and tag.
    """
    pairs = list(entries)
    rows = [row_of_entry(name, entry) for name, entry in pairs]
    _refuse_twice(path, [(name, entry.tag) for name, entry in pairs])
    _write_rows(path, WEIGHTS_COLUMNS, rows)


def read_labels(path: Path, count: int | None) -> tuple[str, ...]:
    """Read the class labels of a file, one a line.

    Args:
        path: The file.
        count: How many there must be, None for any.

    Raises:
        CatalogError: The file cannot be read, or has another number of them.
    """
    labels = tuple(_read_text(path).rstrip("\n").split("\n"))
    if count is not None and len(labels) != count:
        raise CatalogError(
            f"{path} has {len(labels)} labels, and the weights that name it have {count} classes. "
            "Report it to the author of the plugin that describes the weights."
        )
    return labels


def _guarded(path: Path, row: list[str], parse: Callable[[list[str]], _Read]) -> _Read:
    try:
        return parse(row)
    except UNREADABLE as error:
        raise CatalogError(
            f"The row of {row[0]!r} in {path} cannot be read ({error}). Write the file with the "
            "tool that comes with its distribution, not by hand."
        ) from error


def _read_rows(path: Path, columns: tuple[str, ...]) -> list[list[str]]:
    lines = _read_text(path).split("\n")
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    if not rows or tuple(rows[0]) != columns:
        raise CatalogError(
            f"{path} is not a catalog: its first line names other columns than "
            f"{', '.join(columns)}. Write it with the tool that comes with its distribution."
        )
    for row in rows[1:]:
        if len(row) != len(columns):
            raise CatalogError(
                f"The row of {row[0]!r} in {path} has {len(row)} columns instead of "
                f"{len(columns)}. Write the file with the tool that comes with its distribution."
            )
    return rows[1:]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(
            f"{path} cannot be read ({error}). Install its distribution again."
        ) from error


def _refuse_twice(path: Path, keys: Sequence[tuple[str, ...]]) -> None:
    if len(set(keys)) != len(keys):
        twice = sorted(".".join(key) for key, count in Counter(keys).items() if count > 1)
        raise CatalogError(
            f"Rows of {path} have the same name: {', '.join(twice)}. Name each of them once."
        )


def _write_rows(path: Path, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    text = "".join("\t".join(row) + "\n" for row in (list(columns), *rows))
    write_atomically(path, text.encode())
