"""Shards of made-up rows, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstrip.embed.listing import write_listing
from headstrip.embed.output.provenance import Provenance
from headstrip.embed.output.table import Rows, schema_of, table_of
from headstrip.embed.output.work_dir import Shards, WorkDir
from headstrip.embed.settings import EmbedSettings
from headstrip.embed.sources import Item

DIM = 3
PROVENANCE = Provenance({"name": "tiny", "identity": "a" * 64}, EmbedSettings(), {"torch": "2"})


def items(count: int) -> list[Item]:
    """Return items ``00``, ``01`` and so on."""
    return [Item(f"{number:02d}", 10 + number, 100 + number) for number in range(count)]


def rows_of(listed: list[Item], *, bad: tuple[str, ...] = ()) -> Rows:
    """Return rows; each embedding repeats the number in its path."""
    rows = Rows.empty(listed, DIM)
    for row, item in enumerate(listed):
        rows.embeddings[row] = int(item.path)
        rows.widths[row], rows.heights[row] = 7, 9
        rows.errors[row] = "torn." if item.path in bad else None
        rows.checksums[row] = f"checksum of {item.path}"
    return rows


def shards_in(
    folder: Path, total: int, *, rows: int = 2, dtype: str = "float32", **metadata: Any
) -> Shards:
    """Create a folder, and return its shards."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"plan": PROVENANCE.to_json(), **metadata}
    return Shards(folder, schema_of(DIM, dtype, metadata), rows, total)


def write(shards: Shards, *numbers: int, bad: tuple[str, ...] = ()) -> None:
    """Write some shards, or all of them."""
    listed = items(shards.total)
    for number in numbers or range(len(shards)):
        start, stop = shards.bounds(number)
        shards.write(number, table_of(rows_of(listed[start:stop], bad=bad), shards.schema))


def begun(work_dir: WorkDir, *numbers: int, total: int = 5) -> Shards:
    """Begin a run in a work folder, and write some of its shards."""
    work_dir.begin(PROVENANCE, replaces=False)
    listing = write_listing(work_dir.folder, {"kind": "made"}, items(total))
    shards = shards_in(work_dir.folder / listing.digest[:16], total)
    write(shards, *numbers)
    return shards
