"""headstrip never writes to a file of the source, under any of its names."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.conftest import pixels, tiny_encoder

from headstrip import EmbedOptions, EmbedSettings, HeadstripError
from headstrip.embed.run import embed_source

Link = Callable[[Path, Path], None]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Save a picture outside the source, under a name without a suffix."""
    path = tmp_path / "kept" / "original"
    path.parent.mkdir()
    Image.fromarray(pixels(0, 20, 25)).save(path, "png")
    return path


def refused(source: object, out: Path) -> None:
    before = out.read_bytes()
    with pytest.raises(HeadstripError, match="is a file of the source, and the run"):
        embed_source(
            tiny_encoder(),
            source,
            out,
            settings=EmbedSettings(batch_size=1),
            options=EmbedOptions(
                workers=None if not isinstance(source, (str, Path)) else 0, overwrite=True
            ),
        )
    assert out.read_bytes() == before
    assert not out.with_name(out.name + ".parts").exists()


def symbolic(new: Path, old: Path) -> None:
    new.symlink_to(old)


def hard(new: Path, old: Path) -> None:
    os.link(old, new)


def through_a_folder(new: Path, old: Path) -> None:
    (new.parent.parent / "linked").symlink_to(old.parent)
    new.symlink_to(new.parent.parent / "linked" / old.name)


@pytest.mark.parametrize("link", [symbolic, hard, through_a_folder])
@pytest.mark.parametrize("kind", ["folder", "pattern", "list", "iterable", "one file"])
def test_an_output_that_an_image_of_the_source_links_to_is_refused(
    tmp_path: Path, image: Path, link: Link, kind: str
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(pixels(1, 20, 25)).save(photos / "b.png")
    link(photos / "a.png", image)
    (tmp_path / "list.txt").write_text("photos/b.png\nphotos/a.png\n")
    sources = {
        "folder": photos,
        "pattern": str(photos / "*.png"),
        "list": tmp_path / "list.txt",
        "iterable": [photos / "b.png", photos / "a.png"],
        "one file": photos / "a.png",
    }
    refused(sources[kind], image)


def test_a_rows_file_that_an_image_links_to_is_refused(tmp_path: Path, image: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = image.rename(tmp_path / "o.rows.parquet")
    (photos / "a.png").symlink_to(rows)
    before = rows.read_bytes()
    with pytest.raises(HeadstripError, match="is a file of the source"):
        embed_source(
            tiny_encoder(),
            photos,
            tmp_path / "o.npy",
            options=EmbedOptions(workers=0, overwrite=True),
        )
    assert rows.read_bytes() == before


def test_an_output_that_links_to_an_image_of_the_source_is_refused(
    tmp_path: Path, image: Path
) -> None:
    (tmp_path / "out.parquet").symlink_to(image)
    refused(image, tmp_path / "out.parquet")


@pytest.mark.parametrize("link", [symbolic, hard])
@pytest.mark.parametrize("kind", ["list", "tar", "table", "table of a folder"])
def test_an_output_that_links_to_a_list_archive_or_table_of_the_source_is_refused(
    tmp_path: Path, image: Path, link: Link, kind: str
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    held, out = folder / "held", tmp_path / "out.parquet"
    if kind == "list":
        held = held.with_suffix(".csv")
        held.write_text(f"path\n{image}\n")
    elif kind == "tar":
        held = held.with_suffix(".tar")
        with tarfile.open(held, "w") as tar:
            tar.add(image, "a.png")
    else:
        held = held.with_suffix(".parquet")
        pq.write_table(pa.table({"image": [image.read_bytes()]}), held)
    link(out, held)
    refused(folder if kind == "table of a folder" else held, out)


def test_an_output_that_is_an_open_picture_of_the_source_is_refused(image: Path) -> None:
    with Image.open(image) as opened:
        refused([np.zeros((9, 9, 3), np.uint8), opened], image)
