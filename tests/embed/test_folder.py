"""A folder of images into a Parquet file."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.embed.conftest import SMALL

from headstrip import HeadstripError, PreprocessingError, build_encoder
from headstrip.embed import parquet
from headstrip.embed.folder import embed_folder
from headstrip.embed.parquet import embeddings_file
from headstrip.encoder import Encoder

Save = Callable[..., Path]


@pytest.fixture
def photos(save: Save) -> Path:
    """Two good photos, and between them a torn one and a text."""
    save("a.png", 1)
    torn = save("b/torn.jpg", 2)
    torn.write_bytes(torn.read_bytes()[:-400])
    save("c.png", 3)
    (torn.parent / "notes.jpg").write_text("not a picture")
    return torn.parents[1]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder / "out.parquet"


def embeddings_of(out: Path) -> dict[str, np.ndarray | None]:
    table = pq.read_table(out)
    return {
        path: None if vector is None else np.array(vector, np.float32)
        for path, vector in zip(
            table["path"].to_pylist(), table["embedding"].to_pylist(), strict=True
        )
    }


def test_a_bad_image_is_a_row_with_its_reason(encoder: Encoder, photos: Path, out: Path) -> None:
    report = embed_folder(encoder, photos, out)
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == ["a.png", "b/notes.jpg", "b/torn.jpg", "c.png"]
    assert [row["embedding"] is None for row in rows] == [False, True, True, False]
    assert [row["width"] for row in rows] == [100, None, None, 100]
    assert [row["height"] for row in rows] == [80, None, None, 80]
    assert [row["error"] is None for row in rows] == [True, False, False, True]
    assert "truncated" in rows[2]["error"]
    assert report.rows == 4
    assert report.failed == {row["path"]: row["error"] for row in rows if row["error"]}
    assert report.out == out


def test_the_schema_is_kept(encoder: Encoder, photos: Path, out: Path) -> None:
    embed_folder(encoder, photos, out)
    schema = pq.read_schema(out)
    assert {field.name: field.type for field in schema} == {
        "path": pa.string(),
        "embedding": pa.list_(pa.float32(), encoder.output_dim),
        "width": pa.int32(),
        "height": pa.int32(),
        "error": pa.string(),
    }
    assert pq.ParquetFile(out).metadata.row_group(0).column(1).compression == "ZSTD"


def test_an_embedding_is_that_of_the_encoder(encoder: Encoder, photos: Path, out: Path) -> None:
    embed_folder(encoder, photos, out, batch_size=1)
    assert np.array_equal(embeddings_of(out)["c.png"], encoder.embed([photos / "c.png"])[0])


def test_a_bad_image_does_not_change_the_others(encoder: Encoder, photos: Path, out: Path) -> None:
    embed_folder(encoder, photos, out, batch_size=2)
    beside = embeddings_of(out)
    (photos / "b" / "torn.jpg").unlink()
    (photos / "b" / "notes.jpg").unlink()
    embed_folder(encoder, photos, out, batch_size=2)
    alone = embeddings_of(out)
    assert np.array_equal(alone["a.png"], beside["a.png"])
    assert np.array_equal(alone["c.png"], beside["c.png"])


@given(
    names=st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1),
    bad=st.sets(st.sampled_from("abcdefgh")),
    batch_size=st.integers(1, 5),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_bad_there_is_a_row_a_file_and_the_same_bits(
    encoder: Encoder,
    save: Save,
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    bad: set[str],
    batch_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "photos").mkdir()
    for name in names:
        good = save(f"{name}.png", ord(name))
        target = folder / "photos" / f"{name}.png"
        target.write_bytes(b"bad" if name in bad else good.read_bytes())
    embed_folder(encoder, folder / "photos", folder / "out.parquet", batch_size=batch_size)
    found = embeddings_of(folder / "out.parquet")
    assert list(found) == [f"{name}.png" for name in sorted(names)]
    for name in names:
        vector = found[f"{name}.png"]
        blank = np.zeros((80, 100, 3), np.uint8)
        slot = [save(f"{name}.png", ord(name)), *[blank] * (batch_size - 1)]
        expected = encoder.embed(slot, batch_size=batch_size)[0]
        assert vector is None if name in bad else np.array_equal(vector, expected)


def test_a_folder_of_bad_images_alone_has_its_rows(
    encoder: Encoder, tmp_path: Path, out: Path
) -> None:
    (tmp_path / "a.png").touch()
    report = embed_folder(encoder, tmp_path, out)
    assert pq.read_table(out).to_pylist() == [
        {"path": "a.png", "embedding": None, "width": None, "height": None,
         "error": "the file is empty."}
    ]  # fmt: skip
    assert report.failed == {"a.png": "the file is empty."}


def test_an_image_that_cannot_be_converted_keeps_its_size(
    encoder: Encoder, tmp_path: Path, out: Path
) -> None:
    Image.new("F", (7, 9)).save(tmp_path / "float.tif")
    embed_folder(encoder, tmp_path, out)
    (row,) = pq.read_table(out).to_pylist()
    assert (row["width"], row["height"], row["embedding"]) == (7, 9, None)
    assert "mode 'F'" in row["error"]


def test_a_turned_photo_has_the_size_that_one_sees(encoder: Encoder, save: Save, out: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = save("turned.jpg", exif=exif).parent
    embed_folder(encoder, folder, out)
    (row,) = pq.read_table(out).to_pylist()
    assert (row["width"], row["height"]) == (80, 100)


def test_the_file_says_what_its_embeddings_depend_on(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    embed_folder(encoder, photos, out, batch_size=3)
    told = json.loads(pq.read_schema(out).metadata[b"headstrip"])
    assert told["fingerprint"] == encoder.fingerprint.to_json()
    assert told["preprocessing"] == SMALL.to_json()
    assert told["options"] == dict(encoder.options)
    assert told["batch_size"] == 3


def test_two_runs_write_the_same_bytes(encoder: Encoder, photos: Path, out: Path) -> None:
    embed_folder(encoder, photos, out)
    first = out.read_bytes()
    embed_folder(encoder, photos, out)
    assert out.read_bytes() == first


def test_rows_are_written_in_groups_as_they_come(
    encoder: Encoder, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS_PER_GROUP", 2)
    embed_folder(encoder, photos, out, batch_size=1)
    metadata = pq.read_metadata(out)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2]


def test_progress_is_told_after_each_batch(encoder: Encoder, photos: Path, out: Path) -> None:
    told: list[tuple[int, int]] = []
    embed_folder(
        encoder, photos, out, batch_size=3, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(3, 4), (4, 4)]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_name_that_is_not_utf8_is_a_row(encoder: Encoder, save: Save, out: Path) -> None:
    photo = save("a.png")
    photo.rename(photo.with_name(os.fsdecode(b"\xff.png")))
    report = embed_folder(encoder, photo.parent, out)
    assert pq.read_table(out)["path"].to_pylist() == ["\\xff.png"]
    assert not report.failed


def test_a_file_that_is_there_is_replaced_and_readable_by_others(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    out.write_text("old")
    embed_folder(encoder, photos, out)
    umask = os.umask(0)
    os.umask(umask)
    assert pq.read_metadata(out).num_rows == 4
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~umask


def test_an_interruption_leaves_the_old_file_and_nothing_else(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    out.write_text("old")

    def interrupt(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        embed_folder(encoder, photos, out, progress=interrupt)
    assert list(out.parent.iterdir()) == [out]
    assert out.read_text() == "old"


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Have the system refuse to make a file larger, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 2000])
def test_a_full_disk_is_told_and_leaves_nothing(
    encoder: Encoder, photos: Path, out: Path, size: int
) -> None:
    with no_file_larger_than(size), pytest.raises(HeadstripError, match="could not be written"):
        embed_folder(encoder, photos, out)
    assert list(out.parent.iterdir()) == []


def test_a_table_with_a_hole_is_not_written(out: Path) -> None:
    row = parquet.Row("a.png", np.ones(2, np.float32), 1, 1, None)
    with (
        pytest.raises(HeadstripError, match="1 rows for 2 images"),
        embeddings_file(out, 2, 2, {}) as table,
    ):
        table.add([row])
    assert list(out.parent.iterdir()) == []


def test_paths_that_cannot_work_are_told_before_any_work(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    with pytest.raises(HeadstripError, match="There is no folder"):
        embed_folder(encoder, photos / "none", out)
    with pytest.raises(HeadstripError, match="there is no folder"):
        embed_folder(encoder, photos, out.parent / "none" / "out.parquet")
    with pytest.raises(ValueError, match="makes no batch"):
        embed_folder(encoder, photos, out, batch_size=0)
    assert list(out.parent.iterdir()) == []


def test_an_encoder_of_clips_or_without_preprocessing_is_refused(photos: Path, out: Path) -> None:
    video = build_encoder("s3d", weights=None, preprocessing="KINETICS400_V1")
    with pytest.raises(PreprocessingError, match="takes clips of frames"):
        embed_folder(video, photos, out)
    with pytest.raises(PreprocessingError, match="has no preprocessing"):
        embed_folder(build_encoder("squeezenet1_1", weights=None), photos, out)
    assert list(out.parent.iterdir()) == []


def test_an_embedding_that_is_not_finite_is_a_bad_row(save, tmp_path):
    save("a.png")
    encoder = build_encoder("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL)
    encoder.backbone.conv1[0].weight.data.fill_(float("nan"))
    report = embed_folder(encoder, tmp_path / "photos", tmp_path / "out.parquet")
    assert report.failed == {"a.png": "its embedding is not finite."}
