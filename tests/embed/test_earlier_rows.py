"""Which rows of an earlier run are kept, and what the run reports about them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.conftest import tiny_encoder

from headstrip import HeadstripError, load_embeddings
from headstrip.embed.run import EmbedOptions, embed_source
from headstrip.embed.settings import EmbedSettings

SETTINGS = EmbedSettings(batch_size=2, shard_rows=2, threads=1)
ENCODER = tiny_encoder()
OUTS = pytest.mark.parametrize("name", ["out.parquet", "out.npy"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (9, 9), (40 * number, 9, 9)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"torn")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def embed(photos: Path, out: Path, encoder: Any = ENCODER, **options: Any) -> tuple[Any, list[str]]:
    """Embed a folder, and return the report and the messages for the user."""
    messages: list[str] = []
    report = embed_source(
        encoder,
        photos,
        out,
        settings=SETTINGS,
        options=EmbedOptions(workers=0, inference_threads=1, **options),
        notify=messages.append,
    )
    return report, messages


def as_if_written_with(out: Path, **environment: str) -> None:
    """Change the environment that a file states."""
    table = pq.read_table(out)
    metadata = json.loads(table.schema.metadata[b"headstrip"])
    metadata["plan"]["environment"].update(environment)
    described = {**table.schema.metadata, b"headstrip": json.dumps(metadata).encode()}
    pq.write_table(table.replace_schema_metadata(described), out)


def test_a_complete_file_is_not_computed_again(photos: Path, out: Path) -> None:
    first, messages = embed(photos, out)
    assert (first.rows, first.computed, messages) == (5, 5, [])
    again, messages = embed(photos, out)
    assert (again.rows, again.computed, messages) == (5, 0, [])


@pytest.mark.parametrize(
    ("option", "computed"), [("checksum", 0), ("retry_failed", 1), ("overwrite", 5)]
)
def test_rows_of_a_complete_file_are_computed_again_on_request(
    photos: Path, out: Path, option: str, computed: int
) -> None:
    embed(photos, out)
    assert embed(photos, out, **{option: True})[0].computed == computed


def test_rows_with_earlier_names_of_settings_are_kept(photos: Path, out: Path) -> None:
    embed(photos, out)
    table = pq.read_table(out)
    described = table.schema.metadata[b"headstrip"].replace(b'"decode_mode"', b'"route"')
    pq.write_table(table.replace_schema_metadata({b"headstrip": described}), out)
    report, messages = embed(photos, out)
    assert (report.rows, report.computed, messages) == (5, 0, [])


def test_rows_of_another_environment_are_kept_and_reported(photos: Path, out: Path) -> None:
    embed(photos, out)
    as_if_written_with(out, torch="1.0", processor="other")
    processor = json.loads(pq.read_schema(out).metadata[b"headstrip"])["plan"]["environment"]
    assert processor["torch"] == "1.0"
    report, messages = embed(photos, out)
    assert report.computed == 0
    (sentence,) = messages
    assert sentence.startswith(
        f"{str(out)!r} has rows of another environment, and the last bits of new rows may differ "
        "from theirs: processor was 'other' and is "
    )
    assert sentence.endswith(f"; torch was '1.0' and is {torch.__version__!r}.")


def test_exact_refuses_rows_of_another_environment(photos: Path, out: Path) -> None:
    embed(photos, out)
    as_if_written_with(out, torch="1.0")
    before = out.read_bytes()
    with pytest.raises(HeadstripError) as caught:
        embed(photos, out, exact=True)
    assert str(caught.value) == (
        f"{str(out)!r} has rows of another environment: torch was '1.0' and is "
        f"{torch.__version__!r}. Leave out --exact (exact=True), or pass another file."
    )
    assert out.read_bytes() == before
    assert embed(photos, out, exact=True, overwrite=True)[0].computed == 5


def test_exact_accepts_rows_of_the_same_environment(photos: Path, out: Path) -> None:
    embed(photos, out)
    assert embed(photos, out, exact=True)[0].computed == 0


@OUTS
def test_rows_of_another_source_are_reported(photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    embed(photos, out)
    photos.rename(tmp_path / "moved")
    (tmp_path / "moved" / "0.png").unlink()
    report, messages = embed(tmp_path / "moved", out)
    assert messages == [
        f"{str(out)!r} has rows of another source. headstrip removes those of images that are not "
        "in this source."
    ]
    assert (report.rows, report.computed) == (4, 0)
    assert load_embeddings(out)[0] == ["1.png", "2.png", "3.png", "4.png"]


def test_an_image_of_another_source_that_looks_the_same_is_compared_by_its_bytes(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    embed(photos, out)
    other = photos.rename(tmp_path / "moved")
    before = (other / "1.png").stat()
    data = (other / "2.png").read_bytes()
    (other / "1.png").write_bytes(data)
    os.utime(other / "1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert embed(other, out)[0].computed == 1


def other_file(name: str) -> str:
    return (
        f"{name!r} exists, and headstrip can update only a file of embeddings. Pass another file, "
        "or replace this one with --overwrite (overwrite=True)."
    )


@OUTS
def test_a_file_that_holds_no_embeddings_is_refused(
    photos: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(HeadstripError) as caught:
        embed(photos, tmp_path / name)
    assert str(caught.value) == other_file(str(tmp_path / name))
    assert embed(photos, tmp_path / name, overwrite=True)[0].computed == 5


def test_a_rows_file_that_headstrip_did_not_write_is_refused(photos: Path, tmp_path: Path) -> None:
    embed(photos, out := tmp_path / "out.npy")
    (rows,) = {*tmp_path.glob("out*")} - {out}
    rows.write_text("old")
    out.unlink()
    with pytest.raises(HeadstripError) as caught:
        embed(photos, out)
    assert str(caught.value) == other_file(str(rows))


def test_an_output_that_is_a_dangling_link_is_written_through_the_link(
    photos: Path, out: Path
) -> None:
    out.symlink_to("nowhere.parquet")
    embed(photos, out)
    assert out.is_symlink()
    assert out.with_name("nowhere.parquet").is_file()


def test_a_damaged_file_is_written_again(photos: Path, out: Path) -> None:
    embed(photos, out)
    data = bytearray(out.read_bytes())
    data[40:80] = bytes(40)
    out.write_bytes(data)
    report, (sentence, *_) = embed(photos, out)
    assert sentence.startswith(f"{str(out)!r} ")
    assert sentence.endswith(" headstrip writes it again.")
    assert report.rows == 5
    assert load_embeddings(out)[2].tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: b"x" + data[1:]])
def test_a_damaged_array_is_computed_again(
    photos: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    embed(photos, out := tmp_path / "out.npy")
    whole = out.read_bytes()
    out.write_bytes(damage(whole))
    report, (sentence,) = embed(photos, out)
    assert sentence.startswith(f"{str(out)!r} ")
    assert sentence.endswith(". headstrip computes its rows again and replaces it.")
    assert (report.computed, out.read_bytes()) == (5, whole)


def test_rows_of_another_encoder_are_refused_without_overwrite(photos: Path, out: Path) -> None:
    embed(photos, out)
    other = tiny_encoder()
    other.preprocessing = replace(other.preprocessing, resize=8)
    with pytest.raises(HeadstripError, match="has rows of another encoder or other settings"):
        embed(photos, out, encoder=other)
    report, messages = embed(photos, out, encoder=other, overwrite=True)
    assert (report.computed, messages) == (5, [])


def test_a_resumed_run_counts_the_bad_images_of_finished_shards(photos: Path, out: Path) -> None:
    with pytest.raises(HeadstripError, match="1 images could not be embedded, and max_errors is 0"):
        embed(photos, out, max_errors=0)
    with pytest.raises(HeadstripError, match="1 images could not be embedded, and max_errors is 0"):
        embed(photos, out, max_errors=0)
    assert not out.exists()
    report, _ = embed(photos, out, max_errors=1)
    assert (report.rows, len(report.failed)) == (5, 1)


def test_pages_all_gives_each_page_a_row(photos: Path, out: Path) -> None:
    frames = [Image.new("RGB", (9, 9), (9, number, 9)) for number in (0, 99)]
    frames[0].save(photos / "5.gif", save_all=True, append_images=frames[1:])
    assert embed(photos, out)[0].rows == 6
    assert embed(photos, out, pages="all", overwrite=True)[0].rows == 7
    assert load_embeddings(out)[0][-2:] == ["5.gif#1", "5.gif#2"]


def test_files_that_are_not_images_are_counted(photos: Path, out: Path) -> None:
    assert embed(photos, out)[0].left_out == {".txt": 1}


def test_a_run_logs_the_settings_that_it_uses(
    photos: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "headstrip.embed"):
        embed(photos, out)
    (line,) = [text for text in caplog.messages if text.startswith("embedding with ")]
    assert "batch_size=2, " in line
    assert "shard_rows=2" in line
    assert line.endswith("; 1 inference threads, 0 worker processes")
