"""Which rows of earlier files are reused, and which are computed again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embed.output.shards import DIM, items, shards_in, write

from headstrip import ImageError
from headstrip.embed.decoding.worker import checksum_of
from headstrip.embed.output.merging import merge
from headstrip.embed.output.paths import rows_file
from headstrip.embed.output.reusable_rows import ReusableRows
from headstrip.embed.output.table import Rows, table_of
from headstrip.embed.sources import Item

LATEST = 2**63 - 1


@dataclass
class MemoryReader:
    """Reads the name of an image as its bytes, unless the image changed."""

    changed: dict[str, bytes] = field(default_factory=dict)
    read_paths: list[str] = field(default_factory=list)

    def read(self, item: Item) -> bytes:
        self.read_paths.append(item.path)
        if self.changed.get(item.path) == b"":
            raise ImageError("it is gone.")
        return self.changed.get(item.path, item.path.encode())


@pytest.fixture
def reader() -> MemoryReader:
    return MemoryReader()


def write_earlier(folder: Path, listed: list[Item], *, bad: tuple[str, ...] = ()) -> Path:
    """Write one file of rows; each embedding repeats the number in its path."""
    shards = shards_in(folder, len(listed), rows=len(listed))
    rows = Rows.empty(listed, DIM)
    for row, item in enumerate(listed):
        rows.embeddings[row] = int(item.path)
        rows.widths[row] = rows.heights[row] = 10 + row
        rows.errors[row] = "torn." if item.path in bad else None
        rows.checksums[row] = checksum_of(item.path.encode())
    shards.write(0, table_of(rows, shards.schema))
    return shards.path(0)


def filled(
    files: list[Path], listed: list[Item], reader: MemoryReader, **how: Any
) -> tuple[list[int], Rows]:
    """Fill rows from earlier files; return the indices of the missing ones, and the rows."""
    how = {"retry_failed": False, "checksum": False, **how}
    rows = Rows.empty(listed, DIM)
    return ReusableRows(files, reader=reader, **how).fill(rows), rows


def test_rows_of_unchanged_images_are_reused_completely(
    tmp_path: Path, reader: MemoryReader
) -> None:
    earlier = write_earlier(tmp_path, items(3), bad=("01",))
    missing, rows = filled([earlier], items(3), reader)
    assert missing == []
    assert rows.embeddings[0].tolist() == [0.0] * DIM
    assert rows.embeddings[2].tolist() == [2.0] * DIM
    assert rows.errors == [None, "torn.", None]
    assert (rows.widths, rows.heights) == ([10, 11, 12], [10, 11, 12])
    assert rows.checksums == [checksum_of(item.path.encode()) for item in items(3)]
    assert reader.read_paths == []


@pytest.mark.parametrize("change", [{"size": 1}, {"modified": 1}])
def test_the_row_of_an_image_with_another_size_or_time_is_not_reused(
    tmp_path: Path, reader: MemoryReader, change: dict[str, int]
) -> None:
    earlier = write_earlier(tmp_path, items(3))
    listed = items(3)
    listed[1] = listed[1]._replace(**change)
    assert filled([earlier], listed, reader)[0] == [1]


def test_new_images_are_missing_and_removed_ones_are_ignored(
    tmp_path: Path, reader: MemoryReader
) -> None:
    earlier = write_earlier(tmp_path, items(4)[::2])
    missing, rows = filled([earlier], items(4)[1:], reader)
    assert missing == [0, 2]
    assert rows.embeddings[1].tolist() == [2.0] * DIM


def test_bad_images_are_missing_only_with_retry_failed(
    tmp_path: Path, reader: MemoryReader
) -> None:
    earlier = write_earlier(tmp_path, items(3), bad=("01",))
    assert filled([earlier], items(3), reader, retry_failed=True)[0] == [1]


def test_with_checksum_only_the_bytes_decide_about_reuse(
    tmp_path: Path, reader: MemoryReader
) -> None:
    earlier = write_earlier(tmp_path, items(3))
    reader.changed = {"01": b"changed", "02": b""}
    listed = [item._replace(size=1, modified=1) for item in items(3)]
    assert filled([earlier], listed, reader, checksum=True)[0] == [1, 2]


def test_a_clipped_time_is_confirmed_by_the_checksum(tmp_path: Path, reader: MemoryReader) -> None:
    listed = [item._replace(modified=LATEST) for item in items(2)]
    earlier = write_earlier(tmp_path, listed)
    reader.changed = {"01": b"changed"}
    assert filled([earlier], listed, reader)[0] == [1]
    assert reader.read_paths == ["00", "01"]


def test_the_first_of_several_files_wins(tmp_path: Path, reader: MemoryReader) -> None:
    old = write_earlier(tmp_path / "old", items(2), bad=("00",))
    new = write_earlier(tmp_path / "new", items(2))
    assert filled([new, old], items(2), reader)[1].errors == [None, None]
    assert filled([old, new], items(2), reader)[1].errors == ["torn.", None]


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_rows_of_a_damaged_file_are_not_reused(
    tmp_path: Path, reader: MemoryReader, damage: str
) -> None:
    earlier = write_earlier(tmp_path, items(2))
    data = bytearray(earlier.read_bytes())
    data[data.index(b"\x28\xb5\x2f\xfd") + 8] ^= 1
    earlier.write_bytes({"missing": b"", "cut": data[:-20], "flipped": data}[damage])
    if damage == "missing":
        earlier.unlink()
    assert filled([earlier], items(2), reader)[0] == [0, 1]


def test_embeddings_of_an_array_are_reused_with_its_rows(
    tmp_path: Path, reader: MemoryReader
) -> None:
    shards = shards_in(tmp_path / "work" / "shards", 5)
    write(shards, bad=("03",))
    out = tmp_path / "out.npy"
    merge(shards, out, shards.folder.parent)
    missing, rows = filled([rows_file(out)], items(5)[2:], reader)
    assert missing == []
    assert rows.embeddings[0].tolist() == [2.0] * DIM
    assert rows.errors == [None, "torn.", None]
    assert np.isnan(rows.embeddings[1]).all()
