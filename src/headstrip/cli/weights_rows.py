"""What ``headstrip weights list`` says of each file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstrip.cli.weights_names import all_stored
from headstrip.registry.registry import Registry
from headstrip.weights.caches import Caches, Stored
from headstrip.weights.optimized import optimized
from headstrip.weights.removing import partials
from headstrip.weights.status import Status, status, status_of_copy
from headstrip.weights.trust import cache_home, recorded

Row = dict[str, Any]

_DIGITS = 12


def all_rows(registry: Registry, caches: Caches, pattern: str | None) -> list[Row]:
    """Return a row a file: those of weights, their copies, partial downloads, other copies."""
    rows: list[Row] = []
    for stored in all_stored(registry, caches, pattern, here=True):
        if stored.is_here:
            rows.append(_row(stored.name, stored.path, status(stored)))
            rows += [_copy_row(stored.name, copy) for copy in _copies(stored)]
        rows += [_partial_row(stored.name, path) for path in partials(stored.entry)]
    if pattern is None:
        listed = {row["path"] for row in rows}
        copies = sorted((cache_home() / "optimized").glob("*.safetensors"))
        rows += [_copy_row("", copy) for copy in copies if str(copy) not in listed]
    return rows


def readable_size(size: int) -> str:
    """Write 102530333 as ``102.5 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def count(number: int, noun: str) -> str:
    """Write a number before a noun, that in the plural where it has to be."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def cells(row: Row) -> list[str]:
    """Return a row of the table."""
    when = f" on {row['when'][:10]}" if row["when"] and row["state"] == "verified" else ""
    since = f" since {row['when'][:10]}" if row["state"] == "changed" else ""
    return [
        row["name"], readable_size(row["size"]), row["sha256"][:_DIGITS] or "-",
        row["said_by"] or "-", f"{row['state']}{when}{since}", row["path"],
    ]  # fmt: skip


def _copies(stored: Stored) -> list[Path]:
    records = [recorded(file) for file in stored.files()]
    found = [optimized(record.sha256) for record in records if record is not None]
    return [copy for copy in found if copy is not None]


def _row(name: str, path: Path, known: Status) -> Row:
    return {
        "name": name, "kind": "weights", "size": known.size, "sha256": known.sha256,
        "said_by": known.said_by, "state": known.state, "when": known.when, "path": str(path),
    }  # fmt: skip


def _copy_row(name: str, copy: Path) -> Row:
    row = _row(name or f"copy of {copy.stem[:12]}", copy, status_of_copy(copy))
    return {**row, "kind": "optimized copy", "said_by": "headstrip"}


def _partial_row(name: str, path: Path) -> Row:
    size = path.stat().st_size if path.exists() else 0
    row = _row(name, path, Status("not verified", size, "", "", ""))
    return {**row, "kind": "partial download", "state": "partial download"}
