"""A source of images into one file: rows, resuming, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import SMALL
from tests.embed.sources.made import write_images, write_tar

from headstrip import EmbedOptions, EmbedSettings, HeadstripError, PreprocessingError, build_encoder
from headstrip.embed.execute import execute
from headstrip.embed.output.work_dir import open_work_dir
from headstrip.embed.pipeline import RowProgress
from headstrip.embed.plan import RunPlan
from headstrip.embed.run import EmbedReport, embed_source
from headstrip.embed.sources import source_of
from headstrip.encoder.encoder import Encoder

Save = Callable[..., Path]

HERE = EmbedOptions(workers=0)


def embed(encoder: Encoder, source: Path, out: Path, **asked: object) -> EmbedReport:
    """Embed in this process, in small batches and shards."""
    names = {"batch_size", "dtype", "shard_rows", "decode_mode"} & asked.keys()
    chosen = {"batch_size": 2, "shard_rows": 4} | {name: asked.pop(name) for name in names}
    options = EmbedOptions(**{"workers": 0} | asked)
    return embed_source(encoder, source, out, settings=EmbedSettings(**chosen), options=options)


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


def close(first: np.ndarray | None, second: np.ndarray) -> bool:
    """Whether two embeddings differ in their last bits at most."""
    return first is not None and np.allclose(first, second, rtol=1e-4, atol=1e-5)


def test_a_bad_image_is_a_row_with_its_reason(encoder: Encoder, photos: Path, out: Path) -> None:
    report = embed(encoder, photos, out)
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == ["a.png", "b/notes.jpg", "b/torn.jpg", "c.png"]
    assert [row["embedding"] is None for row in rows] == [False, True, True, False]
    assert [row["width"] for row in rows] == [100, None, None, 100]
    assert [row["height"] for row in rows] == [80, None, None, 80]
    assert "truncated" in rows[2]["error"]
    assert (report.rows, report.bad, report.computed, report.out) == (4, 2, 4, out)
    assert report.failed == {row["path"]: row["error"] for row in rows if row["error"]}


def test_embeddings_match_those_of_the_encoder(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    found = embeddings_of(out)
    expected = encoder.embed([photos / "a.png", photos / "c.png"], batch_size=1)
    assert close(found["a.png"], expected[0])
    assert close(found["c.png"], expected[1])


def test_the_file_has_the_documented_schema(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    schema = pq.read_schema(out)
    assert {field.name: field.type for field in schema} == {
        "path": pa.string(),
        "embedding": pa.list_(pa.float32(), encoder.output_dim),
        "width": pa.int32(),
        "height": pa.int32(),
        "error": pa.string(),
        "size": pa.int64(),
        "modified": pa.int64(),
        "checksum": pa.string(),
    }
    assert pq.ParquetFile(out).metadata.row_group(0).column(1).compression == "ZSTD"


def test_the_file_records_everything_that_its_embeddings_depend_on(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    embed(encoder, photos, out, batch_size=3)
    metadata = json.loads(pq.read_schema(out).metadata[b"headstrip"])
    assert metadata["manifest"]["identity"] == encoder.fingerprint.identity
    assert metadata["preprocessing"] == SMALL.to_json()
    assert metadata["plan"]["settings"] == {
        "engine": "torch",
        "precision": "fp32",
        "batch_size": 3,
        "threads": 1,
        "channels_last": True,
        "decode_mode": "exact",
        "dtype": "float32",
        "shard_rows": 4,
    }
    assert metadata["plan"]["environment"]["torch"] == torch.__version__


@given(
    names=st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1),
    bad=st.sets(st.sampled_from("abcdefgh")),
    batch_size=st.integers(1, 5),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_bad_images_keep_one_row_per_file_and_do_not_change_other_embeddings(
    encoder: Encoder,
    save: Save,
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    bad: set[str],
    batch_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    for kind in ("mixed", "clean"):
        (folder / kind).mkdir()
        for name in names:
            good = save(f"{name}.png", ord(name)).read_bytes()
            is_bad = kind == "mixed" and name in bad
            (folder / kind / f"{name}.png").write_bytes(b"bad" if is_bad else good)
        embed(encoder, folder / kind, folder / f"{kind}.parquet", batch_size=batch_size)
    mixed, clean = (embeddings_of(folder / f"{kind}.parquet") for kind in ("mixed", "clean"))
    assert list(mixed) == [f"{name}.png" for name in sorted(names)]
    for path, expected in clean.items():
        found = mixed[path]
        assert found is None if path[0] in bad else np.array_equal(found, expected)


def test_a_folder_of_only_bad_images_gives_rows(
    encoder: Encoder, tmp_path: Path, out: Path
) -> None:
    (tmp_path / "a.png").touch()
    report = embed(encoder, tmp_path, out)
    (row,) = pq.read_table(out).to_pylist()
    assert (row["path"], row["embedding"], row["width"]) == ("a.png", None, None)
    assert report.failed == {"a.png": "the file is empty."}


def test_an_image_that_cannot_be_converted_keeps_its_size(
    encoder: Encoder, tmp_path: Path, out: Path
) -> None:
    Image.new("F", (7, 9)).save(tmp_path / "float.tif")
    embed(encoder, tmp_path, out)
    (row,) = pq.read_table(out).to_pylist()
    assert (row["width"], row["height"], row["embedding"]) == (7, 9, None)
    assert "mode 'F'" in row["error"]


def test_a_rotated_photo_has_its_displayed_size(encoder: Encoder, save: Save, out: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    embed(encoder, save("turned.jpg", exif=exif).parent, out)
    (row,) = pq.read_table(out).to_pylist()
    assert (row["width"], row["height"]) == (80, 100)


def test_two_runs_write_the_same_bytes(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    first = out.read_bytes()
    out.unlink()
    embed(encoder, photos, out)
    assert out.read_bytes() == first


def test_progress_is_reported_up_to_the_last_image(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    reported: list[tuple[int, int]] = []
    embed_source(
        encoder,
        photos,
        out,
        settings=EmbedSettings(batch_size=3),
        options=HERE,
        progress=lambda done, total: reported.append((done, total)),
    )
    assert reported[0] == (0, 4)
    assert reported[-1] == (4, 4)
    assert reported == sorted(reported)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_name_that_is_not_utf8_is_a_row(encoder: Encoder, save: Save, out: Path) -> None:
    photo = save("a.png")
    photo.rename(photo.with_name(os.fsdecode(b"\xff.png")))
    report = embed(encoder, photo.parent, out)
    assert pq.read_table(out)["path"].to_pylist() == ["\\xff.png"]
    assert not report.bad


def test_the_permissions_of_the_file_follow_the_umask(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    embed(encoder, photos, out)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~umask
    assert list(out.parent.iterdir()) == [out]


def test_embeddings_can_be_stored_as_float16(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    whole = embeddings_of(out)["a.png"]
    embed(encoder, photos, out, dtype="float16", overwrite=True)
    assert pq.read_schema(out).field("embedding").type.value_type == pa.float16()
    assert np.array_equal(embeddings_of(out)["a.png"], whole.astype(np.float16))


def test_an_npy_has_its_rows_beside_it(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    expected, table = embeddings_of(out), pq.read_table(out)
    npy = out.with_name("other.npy")
    report = embed(encoder, photos, npy)
    array = np.load(npy, mmap_mode="r")
    assert array.dtype == np.float32
    assert np.array_equal(array[0], expected["a.png"])
    assert np.isnan(array[1:3]).all()
    rows = pq.read_table(npy.with_name("other.rows.parquet"))
    assert rows.drop_columns([]).equals(table.drop_columns(["embedding"]).cast(rows.schema))
    assert report.failed.keys() == {"b/notes.jpg", "b/torn.jpg"}


def test_a_second_run_computes_no_image(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    first = out.read_bytes()
    assert embed(encoder, photos, out).computed == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_changed_and_new_images_are_computed_and_removed_ones_are_dropped(
    encoder: Encoder, save: Save, photos: Path, out: Path, name: str
) -> None:
    target = out.with_name(name)
    save("d.png", 4)
    embed(encoder, photos, target)
    (photos / "b" / "notes.jpg").unlink()
    save("b/new.png", 5)
    save("c.png", 6)
    report = embed(encoder, photos, target)
    assert (report.rows, report.computed) == (5, 2)
    fresh = out.with_name(f"fresh-{name}")
    embed(encoder, photos, fresh)
    assert target.read_bytes() == fresh.read_bytes()


def test_a_checksum_finds_a_change_that_size_and_time_do_not_show(
    encoder: Encoder, tmp_path: Path, out: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    image = folder / "a.bmp"
    Image.new("RGB", (9, 9), "red").save(image)
    Image.new("RGB", (9, 9), "red").save(folder / "b.bmp")
    embed(encoder, folder, out)
    before, old = image.stat(), embeddings_of(out)
    Image.new("RGB", (9, 9), "blue").save(image)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert embed(encoder, folder, out).computed == 0
    assert embed(encoder, folder, out, checksum=True).computed == 1
    new = embeddings_of(out)
    assert not np.array_equal(new["a.bmp"], old["a.bmp"])
    assert np.array_equal(new["b.bmp"], old["b.bmp"])


def test_retry_failed_computes_only_bad_images(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    assert embed(encoder, photos, out, retry_failed=True).computed == 2


def test_too_many_bad_images_end_the_run_and_finished_shards_are_kept(
    encoder: Encoder, save: Save, photos: Path, out: Path
) -> None:
    with pytest.raises(HeadstripError, match="2 images could not be embedded, and max_errors is 1"):
        embed(encoder, photos, out, max_errors=1, shard_rows=1)
    assert not out.exists()
    shards = sorted(out.with_name("out.parquet.parts").glob("*/*.parquet"))
    with pytest.raises(HeadstripError, match=r"2 images .* one is '.*\.jpg': .* finished rows"):
        embed(encoder, photos, out, max_errors=1, shard_rows=1)
    assert sorted(out.with_name("out.parquet.parts").glob("*/*.parquet")) == shards
    assert embed(encoder, photos, out, shard_rows=1).computed < 4
    assert pq.read_metadata(out).num_rows == 4


def test_rows_of_another_encoder_are_refused_and_the_difference_is_named(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    embed(encoder, photos, out)
    first = out.read_bytes()
    torch.manual_seed(1)
    other = build_encoder("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL)
    with pytest.raises(HeadstripError, match="the values of the parameters differ"):
        embed(other, photos, out)
    larger = build_encoder("shufflenet_v2_x1_0", weights=None, preprocessing=SMALL)
    with pytest.raises(HeadstripError, match=r"name is .*x0_5.* in the file and .*x1_0.* here"):
        embed(larger, photos, out)
    with pytest.raises(HeadstripError, match="batch_size is 2 in the file and 3 is requested"):
        embed(encoder, photos, out, batch_size=3)
    assert out.read_bytes() == first
    assert list(out.parent.iterdir()) == [out]
    embed(other, photos, out, overwrite=True)
    assert out.read_bytes() != first


def test_a_file_that_holds_no_embeddings_is_not_replaced(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    out.write_text("old")
    with pytest.raises(HeadstripError, match="exists, and headstrip can update only a file"):
        embed(encoder, photos, out)
    assert out.read_text() == "old"
    embed(encoder, photos, out, overwrite=True)
    assert pq.read_metadata(out).num_rows == 4


def test_an_interruption_keeps_the_old_file_and_the_run_can_be_resumed(
    encoder: Encoder, save: Save, photos: Path, out: Path
) -> None:
    embed(encoder, photos, out)
    old = out.read_bytes()
    for number in range(8):
        save(f"e{number}.png", number)

    def interrupt(done: int, total: int) -> None:
        if done > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_source(encoder, photos, out, options=HERE, progress=interrupt)
    assert out.read_bytes() == old
    embed(encoder, photos, out)
    assert pq.read_metadata(out).num_rows == 12
    assert list(out.parent.iterdir()) == [out]


def test_invalid_paths_and_settings_are_refused_before_any_work(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    with pytest.raises(HeadstripError, match="There is no"):
        embed(encoder, photos / "none", out)
    with pytest.raises(HeadstripError, match="there is no folder"):
        embed(encoder, photos, out.parent / "none" / "out.parquet")
    with pytest.raises(ValueError, match="batch_size=0 must be an integer of 1 or more"):
        embed(encoder, photos, out, batch_size=0)
    assert list(out.parent.iterdir()) == []


def test_an_encoder_of_clips_or_without_preprocessing_is_refused(photos: Path, out: Path) -> None:
    video = build_encoder("s3d", weights=None, preprocessing="KINETICS400_V1")
    with pytest.raises(PreprocessingError, match="takes clips of frames"):
        embed(video, photos, out)
    with pytest.raises(PreprocessingError, match="has no preprocessing"):
        embed(build_encoder("squeezenet1_1", weights=None), photos, out)
    assert list(out.parent.iterdir()) == []


def test_an_embedding_that_is_not_finite_is_a_bad_row(save: Save, out: Path) -> None:
    folder = save("a.png").parent
    encoder = build_encoder("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL)
    encoder.backbone.conv1[0].weight.data.fill_(float("nan"))
    report = embed(encoder, folder, out)
    assert report.failed == {"a.png": "its embedding is not finite."}


def test_a_run_does_not_change_the_encoder(encoder: Encoder, photos: Path, out: Path) -> None:
    identity, threads = encoder.fingerprint.identity, torch.get_num_threads()
    encoder.train()
    embed(encoder, photos, out)
    assert encoder.training
    encoder.eval()
    assert encoder.fingerprint.identity == identity
    assert torch.get_num_threads() == threads


def test_images_of_an_iterable_are_rows_in_their_order(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    def images() -> Iterator[object]:
        yield Image.open(photos / "c.png")
        yield (photos / "a.png").read_bytes()
        yield b"not a picture"
        yield np.asarray(Image.open(photos / "a.png"))
        yield photos / "c.png"

    report = embed_source(encoder, images(), out, settings=EmbedSettings(batch_size=2))
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows[:4]] == [f"{number:09d}" for number in (1, 2, 3, 4)]
    assert rows[4]["path"].endswith("c.png")
    assert (report.rows, report.bad) == (5, 1)
    assert rows[1]["embedding"] == rows[3]["embedding"]
    assert rows[0]["embedding"] == rows[4]["embedding"]
    assert rows[2]["error"].startswith("it is in none of the formats")
    with pytest.raises(HeadstripError, match="exists, and headstrip cannot compare"):
        embed_source(encoder, images(), out)
    embed_source(
        encoder, photos, out.with_name("other.parquet"), settings=EmbedSettings(batch_size=2)
    )
    assert np.array_equal(
        embeddings_of(out.with_name("other.parquet"))["c.png"], rows[0]["embedding"]
    )


def test_worker_processes_do_not_change_the_file(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    other = out.with_name("other.parquet")
    embed(encoder, photos, other, workers=2, inference_threads=2)
    assert other.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "another shard's"])
def test_a_damaged_shard_is_computed_again(
    encoder: Encoder, save: Save, photos: Path, out: Path, damage: str
) -> None:
    embed(encoder, photos, out, shard_rows=1)
    expected = out.read_bytes()
    out.unlink()

    def two(plan: RunPlan, progress: RowProgress) -> NoReturn:
        execute(replace(plan, todo=plan.todo[:2]), progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_source(
            encoder,
            photos,
            out,
            settings=EmbedSettings(batch_size=2, shard_rows=1),
            options=HERE,
            compute=two,
        )
    first, second = sorted(out.parent.glob("out.parquet.parts/*/[0-9]*.parquet"))
    data = first.read_bytes()
    middle = data.index(b"\x28\xb5\x2f\xfd") + 8
    changed = {
        "empty": b"",
        "cut": data[:-100],
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "another shard's": second.read_bytes(),
    }
    first.write_bytes(changed[damage])
    embed(encoder, photos, out, shard_rows=1)
    assert out.read_bytes() == expected


def test_two_processes_cannot_write_the_same_file(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    with (
        open_work_dir(out),
        pytest.raises(HeadstripError, match="Another process is writing"),
    ):
        embed(encoder, photos, out)
    embed(encoder, photos, out)
    assert list(out.parent.iterdir()) == [out]


def test_a_finished_shard_is_not_written_again(
    encoder: Encoder, photos: Path, save: Save, out: Path
) -> None:
    for number in range(8):
        save(f"e{number}.png", number)

    def until(count: int) -> None:
        def interrupt(done: int, total: int) -> None:
            if done >= count:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embed_source(
                encoder,
                photos,
                out,
                options=HERE,
                progress=interrupt,
                settings=EmbedSettings(batch_size=2, shard_rows=4),
            )

    until(6)
    (shard,) = out.parent.glob("*.parts/*/000000.parquet")
    before = shard.stat()
    until(10)
    assert (shard.stat().st_ino, shard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_rows_file_that_headstrip_did_not_write_is_not_replaced(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    rows = out.with_name("out.rows.parquet")
    pq.write_table(pa.table({"mine": [1]}), rows)
    with pytest.raises(HeadstripError, match=r"out\.rows\.parquet' exists, and headstrip can"):
        embed(encoder, photos, out.with_suffix(".npy"))
    assert pq.read_table(rows).to_pydict() == {"mine": [1]}


def test_a_file_of_the_user_in_the_work_folder_is_kept(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    folder = out.with_name("out.parquet.parts")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(HeadstripError, match=r"has 'notes\.txt' in it"):
        embed(encoder, photos, out)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_file_of_another_source_that_looks_the_same_is_read_again(
    encoder: Encoder, photos: Path, out: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for folder, value in ((photos, 10), (other, 200)):
        Image.new("L", (9, 9), value).save(folder / "same.bmp")
        os.utime(folder / "same.bmp", ns=(1, 1))
    embed(encoder, photos, out)
    messages: list[str] = []
    embed_source(
        encoder,
        other,
        out,
        options=HERE,
        settings=EmbedSettings(batch_size=2),
        notify=messages.append,
    )
    (found,) = embeddings_of(out).values()
    clean = out.with_name("clean.parquet")
    embed(encoder, other, clean)
    assert np.array_equal(found, embeddings_of(clean)["same.bmp"])
    assert any("has rows of another source" in message for message in messages)


def test_an_image_from_the_year_2400_is_embedded_like_any_other(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    os.utime(photos / "a.png", (13_569_465_600, 13_569_465_600))
    if (photos / "a.png").stat().st_mtime < 1e10:
        pytest.skip("the file system does not hold such a time")
    report = embed(encoder, photos, out)
    rows = {row["path"]: row for row in pq.read_table(out).to_pylist()}
    assert rows["a.png"]["modified"] == 2**63 - 1
    assert rows["a.png"]["error"] is None
    assert embed(encoder, photos, out).computed == 0 < report.computed


@pytest.mark.parametrize("kind", ["folder", "list", "tar", "parquet"])
@pytest.mark.parametrize("year", [2300, 1500])
def test_a_changed_image_is_computed_again_even_if_its_time_was_clipped(
    encoder: Encoder, tmp_path: Path, out: Path, kind: str, year: int
) -> None:
    files = {"a.bmp": "red", "b.bmp": "green"}
    seconds = (year - 1970) * 31_556_952
    place = write_dated(tmp_path / "photos", kind, files, seconds)
    assert embed(encoder, place, out, shard_rows=1).computed == 2
    assert embed(encoder, place, out, shard_rows=1).computed == 0
    write_dated(tmp_path / "photos", kind, {**files, "a.bmp": "blue"}, seconds + 1)
    assert embed(encoder, place, out, shard_rows=1).computed == 1
    clean = out.with_name("clean.parquet")
    embed(encoder, place, clean, shard_rows=1)
    assert pq.read_table(out).equals(pq.read_table(clean))


def test_an_image_changed_after_an_interruption_is_computed_again_at_any_time(
    encoder: Encoder, tmp_path: Path, out: Path
) -> None:
    files, far = dict.fromkeys(("a.bmp", "b.bmp"), "red"), 13_569_465_600
    place = write_dated(tmp_path / "photos", "folder", files, far)

    def interrupting(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    settings = EmbedSettings(batch_size=1, shard_rows=1)
    with pytest.raises(KeyboardInterrupt):
        embed_source(encoder, place, out, settings=settings, options=HERE, progress=interrupting)
    write_dated(place, "folder", dict.fromkeys(files, "blue"), far)
    embed(encoder, place, out, shard_rows=1, batch_size=1)
    clean = out.with_name("clean.parquet")
    embed(encoder, place, clean, shard_rows=1, batch_size=1)
    assert pq.read_table(out).equals(pq.read_table(clean))


def test_a_source_file_with_a_clipped_time_is_not_replaced(
    encoder: Encoder, tmp_path: Path, out: Path
) -> None:
    place = write_dated(tmp_path / "photos", "folder", {"a.bmp": "red"}, 13_569_465_600)
    (place / "list.txt").write_text("a.bmp\nown\n")
    (place / "own").write_bytes((place / "a.bmp").read_bytes())
    os.utime(place / "own", (13_569_465_600, 13_569_465_600))
    with pytest.raises(HeadstripError, match="is a file of the source, and the run"):
        embed(encoder, place / "list.txt", place / "own", overwrite=True)


def write_dated(folder: Path, kind: str, colours: dict[str, str], seconds: int) -> Path:
    """Write images of one size as a source of a kind, dated in seconds since 1970."""
    folder.mkdir(exist_ok=True)
    for name, colour in colours.items():
        Image.new("RGB", (9, 9), colour).save(folder / name)
    images = {name: (folder / name).read_bytes() for name in colours}
    place = folder
    if kind == "list":
        place = folder / "list.txt"
        place.write_text("\n".join(images))
    elif kind == "tar":
        place = write_tar(folder / "x.tar", images)
    elif kind == "parquet":
        place = write_images(folder / "x.parquet", images.values())
    for file in folder.iterdir():
        os.utime(file, (seconds, seconds))
    if abs(file.stat().st_mtime - seconds) > 1:
        pytest.skip("the file system does not hold such a time")
    return place


def test_rows_keep_the_paths_of_the_list_and_a_second_run_computes_none(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    rows = ["./a.png", "a.png", f"../{photos.name}/a.png"]
    (photos / "list.txt").write_text("\n".join(rows))
    assert embed(encoder, photos / "list.txt", out).computed == 3
    assert set(pq.read_table(out)["path"].to_pylist()) == set(rows)
    assert embed(encoder, photos / "list.txt", out).computed == 0


def test_a_row_that_was_refused_is_tried_again_once_it_is_allowed(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    pytest.importorskip("fsspec", reason="urls are read by fsspec")
    (photos / "list.txt").write_text(f"a.png\n{(photos / 'a.png').as_uri()}\n")
    assert embed(encoder, photos / "list.txt", out).bad == 1
    allowed = source_of(photos / "list.txt", allow_schemes=["file"])
    report = embed(encoder, allowed, out)
    assert (report.bad, report.computed) == (0, 1)
    assert len({*embeddings_of(out)}) == 2


def test_files_that_are_left_out_are_counted(encoder: Encoder, photos: Path, out: Path) -> None:
    (photos / "scan.jxl").touch()
    assert dict(embed(encoder, photos, out).left_out) == {".jxl": 1}
