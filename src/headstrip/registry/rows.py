"""Rows of a catalog: one architecture, or one set of weights, as text in columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar, cast

from headstrip.errors import CatalogError, PreprocessingError
from headstrip.images.preprocessing import Preprocessing
from headstrip.spec import (
    LAWS,
    BackboneSpec,
    Law,
    Pairs,
    Task,
    WeightsEntry,
    freeze,
    is_backbone,
)  # fmt: skip
from headstrip.system import bounded_json

CATALOG_COLUMNS = (
    "name", "source", "family", "plugin", "task", "input_shape", "dim", "params", "law",
    "default_weights", "options",
)  # fmt: skip
WEIGHTS_COLUMNS = (
    "name", "tag", "locations", "sha256", "options", "num_classes", "input_shape", "labels",
    "preprocessing", "license", "metrics",
)  # fmt: skip

UNREADABLE = (ValueError, TypeError, AttributeError, RecursionError, PreprocessingError)
"""What reading a row may raise."""

_MOST_IN_A_CELL = 1 << 20

_Value = TypeVar("_Value", BackboneSpec, WeightsEntry)


def row_of_spec(spec: BackboneSpec) -> list[str]:
    """Write an architecture as a row of ``catalog.tsv``.

    Raises:
        CatalogError: A value would not be read back as it is.
    """
    return _row(spec.name, spec, _spec_to_row, spec_from_row)


def row_of_entry(name: str, entry: WeightsEntry) -> list[str]:
    """Write a set of weights of the architecture ``name`` as a row of ``weights.tsv``.

    Raises:
        CatalogError: A value would not be read back as it is.
    """
    return _row(name, entry, partial(_entry_to_row, name), entry_from_row)


def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``3x224x224`` as (3, 224, 224).

    Raises:
        ValueError: ``text`` is not whole numbers above zero joined by ``x``.
    """
    return tuple(_count(size, least=1) for size in text.split("x"))


def format_shape(shape: Sequence[int]) -> str:
    """Write (3, 224, 224) as ``3x224x224``."""
    return "x".join(map(str, shape))


def spec_from_row(row: list[str]) -> BackboneSpec:
    """Read a row of ``catalog.tsv``; raises one of ``UNREADABLE``."""
    name, source, family, plugin, task, shape, dim, params, law, default, options = row
    if not name or task not in {"image", "video"} or law not in LAWS:
        raise ValueError(f"name {name!r}, task {task!r}, law {law!r}")
    return BackboneSpec(
        name, source, family, plugin, cast("Task", task), parse_shape(shape), _count(dim, least=1),
        _count(params), default or None, _pairs(options), cast("Law", law),
    )  # fmt: skip


def _spec_to_row(spec: BackboneSpec) -> list[str]:
    if not is_backbone(spec.name):
        raise ValueError("a name of this form cannot be asked for")
    return [
        spec.name, spec.source, spec.family, spec.plugin, spec.task,
        format_shape(spec.input_shape), str(spec.dim), str(spec.params),
        spec.law, spec.default_weights or "", _dump(dict(spec.options)),
    ]  # fmt: skip


def entry_from_row(row: list[str]) -> WeightsEntry:
    """Read a row of ``weights.tsv``; raises one of ``UNREADABLE``."""
    (name, tag, locations, sha256, options, classes, shape, labels, preprocessing, license_,
     metrics) = row  # fmt: skip
    if not name or not tag:
        raise ValueError(f"name {name!r}, tag {tag!r}")
    return WeightsEntry(
        tag=tag,
        locations=_texts(locations),
        sha256=sha256,
        options=_pairs(options),
        num_classes=_count(classes, least=1) if classes else None,
        input_shape=parse_shape(shape) if shape else None,
        labels=labels or None,
        preprocessing=Preprocessing.from_json(_parsed(preprocessing)) if preprocessing else None,
        license=license_ or None,
        metrics=_pairs(metrics),
    )


def _entry_to_row(name: str, entry: WeightsEntry) -> list[str]:
    return [
        name, entry.tag, _dump(list(entry.locations)), entry.sha256, _dump(dict(entry.options)),
        "" if entry.num_classes is None else str(entry.num_classes),
        "" if entry.input_shape is None else format_shape(entry.input_shape),
        entry.labels or "",
        "" if entry.preprocessing is None else _dump(entry.preprocessing.to_json()),
        entry.license or "", _dump(dict(entry.metrics)),
    ]  # fmt: skip


def _count(text: str, least: int = 0) -> int:
    number = int(text)
    if number < least:
        raise ValueError(f"{number} is below {least}")
    return number


def _pairs(text: str) -> Pairs:
    data = _parsed(text) if text else {}
    if not isinstance(data, dict):
        raise ValueError(f"{text} is no JSON object")
    return cast("Pairs", freeze(data))


def _parsed(text: str) -> Any:
    return bounded_json.parse(text, "a cell", max_bytes=_MOST_IN_A_CELL)


def _texts(text: str) -> tuple[str, ...]:
    data = _parsed(text) if text else []
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise ValueError(f"{text} is no JSON array of strings")
    return tuple(data)


def _row(
    name: str,
    value: _Value,
    to_row: Callable[[_Value], list[str]],
    from_row: Callable[[list[str]], _Value],
) -> list[str]:
    """Make the row of a value, and refuse one that would not give the value back."""
    try:
        row = to_row(value)
        "".join(row).encode()
        back = from_row(row)
    except UNREADABLE as error:
        raise CatalogError(
            f"{name!r} cannot be a row of a catalog ({str(error).removesuffix('.')}). Give it "
            "plain JSON values."
        ) from error
    if name.startswith("#") or any(set(cell) & set("\t\n\r") for cell in row):
        raise CatalogError(
            f"{name!r} cannot be a row of a catalog: it has a tab or a line break in it, or "
            "begins with '#'. Take that out."
        )
    lost = [key for key in _names(value) if _plain(value, key) != _plain(back, key)]
    if lost:
        raise CatalogError(
            f"{name!r} cannot be a row of a catalog: it would be read back with another "
            f"{' and '.join(lost)}. Give it tuples, and None for what is empty."
        )
    return row


def _names(value: _Value) -> list[str]:
    return [field.name for field in fields(value)]


def _plain(value: _Value, key: str) -> Any:
    """Return one field; of pairs, whose order says nothing, in a row's order."""
    found = getattr(value, key)
    return freeze(dict(found)) if key in {"options", "metrics"} else found


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False) if value else ""
