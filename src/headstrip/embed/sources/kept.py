"""Columns of a list that are copied into the file of embeddings, such as labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from headstrip.embed.sources.items import refuse_repeated
from headstrip.errors import HeadstripError

Keep: TypeAlias = Sequence[str] | Literal["all"]
"""Names of columns, or all except that of the paths."""

OWN_COLUMNS = ("path", "embedding", "width", "height", "error", "size", "modified", "checksum")
"""The columns that headstrip writes itself."""

_DENSE_COLUMN = re.compile(r"(map|tokens)_\d+")
"""Those that it writes with ``--maps`` or ``--tokens``, which a later run may add."""


def kept_fields(
    columns: Mapping[str, pa.DataType], names: Sequence[str], keep: Keep, path: str, shown: str
) -> list[pa.Field]:
    """Return the columns to write for those that a caller keeps.

    Args:
        columns: The columns of the list, and their types.
        names: Their names, also those that come twice.
        keep: Which to keep.
        path: The column of the paths.
        shown: The list, for messages.

    Raises:
        HeadstripError: There is no such column, it has no labels, or its name is taken.
    """
    chosen = [name for name in names if name != path] if keep == "all" else [*keep]
    for name in chosen:
        if name not in columns:
            known = ", ".join(f"{one!r:.60}" for one in names[:8])
            raise HeadstripError(
                f"{shown!r} has no column {name!r:.80} to keep; its columns: {known}. Name one of "
                "them with --keep (keep=)."
            )
        refuse_repeated(shown, name, [*names], "among its columns")
        is_own = name in OWN_COLUMNS or _DENSE_COLUMN.fullmatch(name)
        if is_own or not name.strip() or chosen.count(name) > 1:
            why = "twice" if chosen.count(name) > 1 else "a name that headstrip writes itself"
            raise HeadstripError(
                f"The column {name!r:.80} of {shown!r} cannot be kept: it is {why}. Rename it, or "
                "name the columns to keep with --keep (keep=)."
            )
        if not is_label_type(columns[name]):
            raise HeadstripError(
                f"The column {name!r:.80} of {shown!r} cannot be kept: its cells are of the type "
                f"{columns[name]!s:.60}, and not text, numbers or lists of text. Convert them, "
                "or name other columns with --keep (keep=)."
            )
    return [pa.field(name, _written_type(columns[name])) for name in chosen]


def cells_text(names: Iterable[str], values: Iterable[Any]) -> str:
    """Return the cells of a row as JSON, which lists of images store."""
    cells = dict(zip(names, map(_plain, values), strict=True))
    return json.dumps(cells, ensure_ascii=False)


def cells_column(texts: Sequence[str], field: pa.Field) -> pa.Array:
    """Return one column of the rows that ``cells_text`` returned."""
    cells = [json.loads(text)[field.name] if text else None for text in texts]
    return pa.array(cells, field.type)


def is_label_type(kind: pa.DataType) -> bool:
    """Whether a column can have labels: text, numbers, or lists of text."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(_is_text(kind) or is_number or types.is_boolean(kind) or types.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _written_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column of labels that Parquet gives back unchanged."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(pa.field("element", pa.string()))
    if _is_text(kind) or types.is_null(kind):
        return pa.string()
    if types.is_decimal(kind):
        return pa.float64()
    return pa.float32() if types.is_float16(kind) else kind


def _plain(value: Any) -> Any:
    """Return a cell as JSON has it."""
    is_plain = value is None or isinstance(value, (str, bool, int, float, list))
    return value if is_plain and not isinstance(value, Decimal) else float(value)
