"""Broken and hostile files: each gives the row in docs/reference/images.md."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import MEAN, STD, pixels
from tests.images.hostile_images import KINDS, change_during_run, write_hostile

from headstrip import Preprocessing
from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.sources import source_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "images.md"
STEPS = Preprocessing(crop=(224, 224), resize=256, mean=MEAN, std=STD)
BATCH = 8
LISTED = re.compile(r"^\| (?P<title>[^|]+?) \| (?P<row>[^|]+?) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """The message about a file, and its pixels."""

    message: str
    pixels: np.ndarray


def documented() -> dict[str, str]:
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Hostile files")[2]
    rows = {match["title"]: match["row"] for match in LISTED.finditer(table)}
    rows.pop("file")
    return rows


def decoded(folder: Path, items: list, mode: str, workers: int) -> dict[str, Row]:
    """Decode items in batches, and return the row of each."""
    rows = {}
    reader = source_of(folder).reader()
    with DecodePool(reader, STEPS, batch_size=BATCH, workers=workers, slots=3, mode=mode) as pool:
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            future = pool.submit(batch)
            found = future.result()
            for item, image, pixels in zip(batch, found.images, found.pixels, strict=False):
                message = image.error or f"{image.width} x {image.height}"
                rows[item.path] = Row(message, pixels.copy())
            pool.release(future)
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def hostile(place: Path) -> dict[str, Row]:
    """The row of each kind by its title, decoded among good images: one in each batch at least."""
    kinds = write_hostile(place)
    for number in range(60):
        Image.fromarray(pixels(number)).save(place / f"{number * 3 // 2:02}~good{number}.png")
    items = sorted(source_of(place).items())
    change_during_run(place)
    rows = decoded(place, items, "exact", 2)
    for path, each in kinds.items():
        found = rows.pop(path, Row("no row", np.zeros(0, np.uint8)))
        rows[each.title] = found
    return rows


def test_the_document_lists_every_kind_of_hostile_file() -> None:
    assert len(KINDS) >= 40
    assert list(documented()) == [each.title for each in KINDS]


@pytest.mark.parametrize("title", [each.title for each in KINDS])
def test_each_kind_gives_the_documented_row(hostile: dict[str, Row], title: str) -> None:
    if title == "file that nobody may read" and os.geteuid() == 0:
        pytest.skip("root may read every file")
    pattern = ".*".join(map(re.escape, documented()[title].split("...")))
    assert re.fullmatch(pattern, hostile[title].message)


def test_only_bad_files_have_pixels_of_zero(hostile: dict[str, Row]) -> None:
    for title in (each.title for each in KINDS):
        row = hostile[title]
        is_good = re.fullmatch(r"\d+ x \d+", row.message) is not None
        assert bool(row.pixels.any()) == is_good, title


def test_hostile_files_do_not_change_their_neighbours(hostile: dict[str, Row], place: Path) -> None:
    items = [item for item in source_of(place).items() if "good" in item.path]
    clean = decoded(place, items, "exact", 0)
    assert len(clean) == 60
    for path, row in clean.items():
        assert hostile[path].message == row.message == "100 x 80"
        assert np.array_equal(hostile[path].pixels, row.pixels)


def test_the_fast_mode_gives_the_same_rows(hostile: dict[str, Row], place: Path) -> None:
    titles = {os.fsdecode(each.name): each.title for each in KINDS}
    items = [item for item in source_of(place).items() if item.path in titles]
    for path, row in decoded(place, items, "fast", 2).items():
        assert row.message == hostile[titles[path]].message, titles[path]
