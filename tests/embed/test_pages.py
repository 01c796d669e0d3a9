"""Files of several pages or frames: the first is used and counted, or each is a row."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import HERE, pixels, tiny_encoder
from tests.images.hostile_images import greedy_tiff, looping_tiff

from headstrip import HeadstripError
from headstrip.embed.output.loading import load_embeddings
from headstrip.embed.pages import count_pages, split_page
from headstrip.embed.run import embed_source
from headstrip.html.thumbnails import picture_in

ENCODER = tiny_encoder()
EVERY_PAGE = replace(HERE, pages="all")
PAGES = [Image.fromarray(pixels(seed, 20, 30)) for seed in range(3)]


def written(form: str, **options: object) -> bytes:
    # Copies, because Pillow stores settings of the format on the images that it writes.
    first, *others = (page.copy() for page in PAGES)
    file = io.BytesIO()
    first.save(file, form, save_all=True, append_images=others, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "in"
    place.mkdir()
    (place / "a.tif").write_bytes(written("TIFF"))
    (place / "b.gif").write_bytes(written("GIF", duration=100))
    PAGES[1].save(place / "c.png")
    return place


def rows(out: Path) -> dict[str, np.ndarray]:
    paths, embeddings, _ = load_embeddings(out)
    return dict(zip(paths, embeddings, strict=True))


@pytest.mark.parametrize("form", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_pages_and_frames_are_counted(form: str) -> None:
    assert count_pages(written(form)) == 3


def test_single_pictures_and_damaged_files_count_as_one_page() -> None:
    assert count_pages(written("MPO")) == 1
    for data in (b"", b"no picture", looping_tiff(), greedy_tiff(), written("TIFF")[:60]):
        assert count_pages(data) == 1


def test_only_the_first_page_is_used_and_the_report_lists_those_files(
    folder: Path, tmp_path: Path
) -> None:
    report = embed_source(ENCODER, folder, tmp_path / "out.parquet", options=HERE)
    assert (report.rows, report.stages.multipage_count) == (3, 2)
    assert report.stages.multipage_examples == {"a.tif": 3, "b.gif": 3}


def test_pages_all_makes_each_page_a_row(folder: Path, tmp_path: Path) -> None:
    report = embed_source(ENCODER, folder, tmp_path / "all.parquet", options=EVERY_PAGE)
    assert (report.rows, report.bad, report.stages.multipage_count) == (7, 0, 0)
    found = rows(tmp_path / "all.parquet")
    assert list(found) == [
        *(f"a.tif#{n}" for n in (1, 2, 3)),
        *(f"b.gif#{n}" for n in (1, 2, 3)),
        "c.png",
    ]
    for page, row in zip(PAGES, list(found.values()), strict=False):
        assert np.allclose(row, ENCODER.embed([page])[0], atol=1e-6)
    assert np.array_equal(found["a.tif#2"], found["c.png"])
    again = embed_source(ENCODER, folder, tmp_path / "all.parquet", options=EVERY_PAGE)
    assert again.computed == 0


def test_resuming_with_another_choice_of_pages_gives_the_rows_of_that_choice(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    embed_source(ENCODER, folder, out, options=HERE)
    embed_source(ENCODER, folder, out, options=EVERY_PAGE)
    assert len(rows(out)) == 7
    embed_source(ENCODER, folder, out, options=HERE)
    assert list(rows(out)) == ["a.tif", "b.gif", "c.png"]


def test_the_pages_in_an_archive_are_rows_too(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(folder / "a.tif", "x/a.tif")
    out = tmp_path / "out.parquet"
    embed_source(ENCODER, tmp_path / "in.tar", out, options=EVERY_PAGE)
    assert [path.rpartition("a.tif")[2] for path in rows(out)] == ["#1", "#2", "#3"]


def test_picture_in_returns_the_picture_of_a_page(folder: Path) -> None:
    shown = picture_in(folder, "a.tif#2")
    assert isinstance(shown, Image.Image)
    assert np.array_equal(np.asarray(shown), np.asarray(PAGES[1]))
    assert picture_in(folder, "a.tif#9") == "it has no page or frame 9."


def test_a_hash_in_a_file_name_is_not_taken_for_a_page() -> None:
    assert split_page("a#b.tif") == ("a#b.tif", 0)
    assert split_page("a.tif#\u0663") == ("a.tif#\u0663", 0)


def test_pages_must_be_first_or_all_and_iterables_refuse_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pages='second' is not a valid value"):
        replace(HERE, pages="second")
    with pytest.raises(HeadstripError, match="pages='all'"):
        embed_source(ENCODER, iter(PAGES), tmp_path / "x.parquet", options=EVERY_PAGE)


@pytest.mark.slow
def test_the_command_reports_files_of_several_pages_on_stderr_and_in_json(
    folder: Path, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from headstrip.cli import main

    line = ["embed", str(folder), "-b", "efficientnet-lite:efficientnet_lite0", "-o"]
    done = CliRunner().invoke(main, [*line, str(tmp_path / "x.parquet"), "--json"])
    assert json.loads(done.stdout)["several_pages"] == 2
    assert done.stderr == (
        "2 files have several pages or frames; headstrip used only the first (a.tif: 3, b.gif: 3). "
        "Pass --pages all to embed every page.\n"
    )
    done = CliRunner().invoke(main, [*line, str(tmp_path / "y.parquet"), "--pages", "all"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "7 rows" in done.stdout
