"""Feature maps and tokens in the file of embeddings."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import pixels, tiny_encoder, tiny_vit

from headstrip import (
    EmbedOptions,
    EmbedReport,
    EmbedSettings,
    Encoder,
    HeadstripError,
    LevelError,
    OptionError,
    embed_source,
    load_embeddings,
)
from headstrip.embed.execute import execute
from headstrip.embed.pipeline import RowProgress
from headstrip.embed.plan import RunPlan

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def vit() -> Encoder:
    return tiny_vit()


@pytest.fixture
def photos(save: Save) -> Path:
    """Five images, of which the third is bad."""
    for number, name in enumerate(("a.png", "b/b.png", "c.png", "d.jpg", "e.png")):
        path = save(name, number)
    (path.parent / "c.png").write_text("not a picture")
    return path.parent


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def embed(encoder: Encoder, source: Any, out: Path, **asked: Any) -> EmbedReport:
    """Embed in this process, in small batches and shards."""
    others = {name: asked.pop(name) for name in ("notify", "compute", "progress") if name in asked}
    options = {name: asked.pop(name) for name in ("overwrite", "retry_failed") if name in asked}
    return embed_source(
        encoder,
        source,
        out,
        settings=EmbedSettings(**{"batch_size": 2, "shard_rows": 2, "threads": 1, **asked}),
        options=EmbedOptions(workers=0, inference_threads=1, **options),
        **others,
    )


def write_images(folder: Path, names: Iterable[str]) -> None:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(pixels(number)).save(folder / name)


def arrays(file: Path, column: str) -> dict[str, np.ndarray]:
    """Read a column of maps with only pyarrow, as a user does."""
    table = pq.read_table(file, columns=["path", column])
    table = table.filter(table[column].is_valid())
    found = table[column].combine_chunks().to_numpy_ndarray()
    return dict(zip(table["path"].to_pylist(), found, strict=True))


def maps_of(encoder: Encoder, path: Path) -> list[np.ndarray]:
    with encoder.evaluating():
        return [one[0].numpy() for one in encoder.maps(encoder.preprocess(path)[None])]


def test_each_level_is_a_column_with_the_maps_of_the_encoder(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    embed(encoder, photos, out, maps=[-1, 1])
    last = len(maps_of(encoder, photos / "a.png")) - 1
    assert pq.read_schema(out).names[-2:] == ["map_1", f"map_{last}"]
    for level in (1, last):
        found = arrays(out, f"map_{level}")
        assert sorted(found) == ["a.png", "b/b.png", "d.jpg", "e.png"]
        for path, one in found.items():
            expected = maps_of(encoder, photos / path)[level]
            assert (one.dtype, one.shape) == (np.float16, expected.shape)
            assert np.allclose(one, expected, rtol=1e-3, atol=1e-3)


def test_the_map_of_one_image_can_be_read_by_its_path(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    embed(encoder, photos, out, maps=[1])
    rows = pq.read_table(out, columns=["map_1"], filters=[("path", "==", "d.jpg")])
    one = rows["map_1"].combine_chunks().to_numpy_ndarray()[0]
    assert np.array_equal(one, arrays(out, "map_1")["d.jpg"])


def test_tokens_are_the_prefix_followed_by_the_patches(
    vit: Encoder, photos: Path, out: Path
) -> None:
    embed(vit, photos, out, tokens=True)
    found = arrays(out, "tokens_2")
    with vit.evaluating():
        expected = vit.tokens(vit.preprocess(photos / "a.png")[None])
    assert found["a.png"].shape == (5, 12)
    rows = torch.cat([expected.prefix, expected.patches], 1)[0]
    assert np.allclose(found["a.png"], rows.numpy(), rtol=1e-3, atol=1e-3)


def test_maps_and_tokens_of_one_level_are_separate_columns(
    vit: Encoder, photos: Path, out: Path
) -> None:
    embed(vit, photos, out, maps=[0, -1], tokens=True, maps_dtype="float32")
    assert pq.read_schema(out).names[-3:] == ["map_0", "map_2", "tokens_2"]
    one, tokens = arrays(out, "map_2")["a.png"], arrays(out, "tokens_2")["a.png"]
    assert np.array_equal(one.reshape(12, 4).T, tokens[1:])
    assert one.dtype == np.float32


def test_the_metadata_describes_each_column(vit: Encoder, photos: Path, out: Path) -> None:
    embed(vit, photos, out, maps=[1], tokens=True)
    schema = pq.read_schema(out)
    described = json.loads(schema.metadata[b"headstrip"])
    common = {"channels": 12, "grid": [2, 2], "stride": 8, "dtype": "float16"}
    assert described["maps"] == {
        "map_1": {"level": 1, "prefix": None, **common},
        "tokens_2": {"level": 2, "prefix": 1, **common},
    }
    assert described["plan"]["settings"]["maps"] == [1]
    assert schema.field("map_1").type == pa.fixed_shape_tensor(
        pa.float16(), [12, 2, 2], dim_names=["channel", "row", "column"]
    )
    assert schema.field("tokens_2").type == pa.fixed_shape_tensor(
        pa.float16(), [5, 12], dim_names=["token", "channel"]
    )


@pytest.mark.slow
@given(
    bad=st.sets(st.sampled_from("abcdefg")),
    batch_size=st.integers(1, 4),
    precision=st.sampled_from(["fp32", "bf16"]),
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_maps_change_no_bit_of_the_other_columns(
    encoder: Encoder,
    tmp_path_factory: pytest.TempPathFactory,
    bad: set[str],
    batch_size: int,
    precision: str,
) -> None:
    folder = tmp_path_factory.mktemp("same")
    write_images(folder / "photos", [f"{name}.png" for name in "abcdefg"])
    for name in bad:
        (folder / "photos" / f"{name}.png").write_text("not a picture")
    plain, dense = folder / "plain.parquet", folder / "dense.parquet"
    asked = {"batch_size": batch_size, "shard_rows": 3, "precision": precision}
    embed(encoder, folder / "photos", plain, **asked)
    embed(encoder, folder / "photos", dense, maps=[0, -1], **asked)
    expected = pq.read_table(plain)
    assert pq.read_table(dense, columns=expected.column_names).equals(expected)


def test_default_settings_give_the_same_embeddings_with_maps(
    encoder: Encoder, tmp_path: Path
) -> None:
    write_images(tmp_path / "photos", [f"{number:02}.png" for number in range(35)])
    plain, dense = tmp_path / "plain.parquet", tmp_path / "dense.parquet"
    options = EmbedOptions(workers=0)
    embed_source(encoder, tmp_path / "photos", plain, options=options)
    settings = EmbedSettings(maps=[0], maps_dtype="float32")
    report = embed_source(encoder, tmp_path / "photos", dense, settings=settings, options=options)
    assert report.settings.shard_rows % 16 == 0
    expected = pq.read_table(plain)
    assert pq.read_table(dense, columns=expected.column_names).equals(expected)


def two_shards(plan: RunPlan, progress: RowProgress) -> NoReturn:
    execute(replace(plan, todo=plan.todo[:2]), progress)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    encoder: Encoder, photos: Path, tmp_path: Path, name: str
) -> None:
    clean, out = tmp_path / "clean" / name, tmp_path / name
    clean.parent.mkdir()
    embed(encoder, photos, clean, maps=[-1])
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, photos, out, maps=[-1], compute=two_shards)
    # The settings of the rows that exist apply, maps included.
    report = embed(encoder, photos, out)
    assert (report.computed, report.bad) == (1, 1)
    for file in clean.parent.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_an_update_reuses_the_maps_of_unchanged_images(
    encoder: Encoder, photos: Path, save: Save, out: Path
) -> None:
    embed(encoder, photos, out, maps=[-1])
    before = arrays(out, "map_4")
    save("dd.png", 9)
    (photos / "e.png").unlink()
    # c.png stays bad, and its row is reused as well.
    assert embed(encoder, photos, out, maps=[-1]).computed == 1
    after = arrays(out, "map_4")
    assert sorted(after) == ["a.png", "b/b.png", "d.jpg", "dd.png"]
    assert all(np.array_equal(after[path], before[path]) for path in ("a.png", "b/b.png", "d.jpg"))
    assert embed(encoder, photos, out, maps=[-1]).computed == 0


def test_maps_beside_an_array_are_in_its_rows_file(
    encoder: Encoder, photos: Path, tmp_path: Path, out: Path
) -> None:
    embed(encoder, photos, out, maps=[1])
    embed(encoder, photos, tmp_path / "out.npy", maps=[1])
    expected, found = arrays(out, "map_1"), arrays(tmp_path / "out.rows.parquet", "map_1")
    assert {path: one.tobytes() for path, one in found.items()} == {
        path: one.tobytes() for path, one in expected.items()
    }
    for file in (out, tmp_path / "out.npy"):
        assert load_embeddings(file)[1].shape == (5, 1024)
    assert embed(encoder, photos, tmp_path / "out.npy").computed == 0
    (photos / "a.png").unlink()
    assert embed(encoder, photos, tmp_path / "out.npy").computed == 0
    assert sorted(arrays(tmp_path / "out.rows.parquet", "map_1")) == ["b/b.png", "d.jpg", "e.png"]


@pytest.mark.parametrize(
    ("there", "asked", "sentence"),
    [
        ({}, {"maps": [-1]}, r"maps is None in the file and \[2\] is requested"),
        ({"maps": [-1]}, {"maps": [1, 2]}, r"maps is \[2\] in the file and \[1, 2\] is requested"),
        ({"maps": [-1]}, {"tokens": True}, "tokens is None in the file and True is requested"),
        (
            {"maps": [-1]},
            {"maps": [2], "maps_dtype": "float32"},
            "maps_dtype is 'float16' in the file and 'float32' is requested",
        ),
    ],
)
def test_a_file_with_other_maps_is_refused(
    vit: Encoder,
    photos: Path,
    out: Path,
    there: dict[str, Any],
    asked: dict[str, Any],
    sentence: str,
) -> None:
    embed(vit, photos, out, **there)
    before = out.read_bytes()
    with pytest.raises(HeadstripError, match=rf"{sentence}\. Pass another file"):
        embed(vit, photos, out, **asked)
    assert out.read_bytes() == before
    assert embed(vit, photos, out, **asked, overwrite=True).computed == 5


ILLEGAL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"maps": [9]}, LevelError, "has no level 9: it has 5, numbered 0 to 4, or -5 to -1"),
    ({"tokens": True}, LevelError, r"has no tokens, but 5 feature maps: use --maps \(maps=\) with"),
    (
        {"maps": [-1], "engine": "openvino"},
        OptionError,
        "'openvino' gives embeddings only, and 'torch' also gives feature maps",
    ),
    ({"maps": [0], "shard_rows": 10**9}, OptionError, "shard_rows=1000000000 needs"),
    ({"maps_dtype": "float32"}, OptionError, r"--maps-dtype float32 .* and this file has none"),
]


@pytest.mark.parametrize(("asked", "error", "sentence"), ILLEGAL)
def test_maps_that_the_encoder_or_engine_cannot_give_are_refused_before_any_work(
    encoder: Encoder,
    tmp_path: Path,
    asked: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    write_images(tmp_path / "photos", ["a.png"])
    with pytest.raises(error, match=sentence):
        embed(encoder, tmp_path / "photos", tmp_path / "out.parquet", **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_network_without_maps_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", ["a.png"])
    with pytest.raises(HeadstripError, match="tests:tiny"):
        embed(tiny_encoder(), tmp_path / "photos", tmp_path / "out.parquet", maps=[-1])


@pytest.mark.parametrize("maps", [[], "4", [1.0], [True], 4])
def test_maps_must_be_a_list_of_integers(maps: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a list of one or more integers\. Pass for"):
        EmbedSettings(maps=maps)


def test_tokens_false_is_the_same_as_a_plain_run(encoder: Encoder, photos: Path, out: Path) -> None:
    embed(encoder, photos, out)
    before = out.read_bytes()
    assert embed(encoder, photos, out, tokens=False).computed == 0
    assert embed(encoder, photos, out, tokens=False, overwrite=True).computed == 5
    assert out.read_bytes() == before


def test_the_dtype_of_maps_may_repeat_that_of_the_file(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    embed(encoder, photos, out, maps=[-1])
    assert embed(encoder, photos, out, maps_dtype="float16").computed == 0


def test_a_map_that_does_not_fit_float16_is_an_error(
    encoder: Encoder, photos: Path, out: Path, tmp_path: Path
) -> None:
    scale = 1e6 / float(maps_of(encoder, photos / "a.png")[-1].max())
    encoder = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.backbone.conv5[1].weight.mul_(scale)
    report = embed(encoder, photos, out, maps=[0, -1])
    assert report.failed["a.png"] == "its map_4 does not fit float16."
    table = pq.read_table(out)
    assert table["embedding"].null_count == table["map_0"].null_count == report.bad == 5
    wide = tmp_path / "wide.parquet"
    assert embed(encoder, photos, wide, maps=[-1], maps_dtype="float32").bad == 1
    assert np.isfinite(arrays(wide, "map_4")["a.png"]).all()


def test_the_size_of_maps_is_reported_before_the_first_image(
    encoder: Encoder, photos: Path, out: Path
) -> None:
    events: list[str] = []
    embed(
        encoder,
        photos,
        out,
        maps=[0, 4],
        notify=events.append,
        progress=lambda done, of: events.append(f"{done}/{of}"),
    )
    assert events[0] == (
        "headstrip writes map_0 (24 x 32 x 32, float16), map_4 (1024 x 2 x 2, float16): "
        "56.0 KiB per image, 280.0 KiB for 5 images, before compression."
    )
    assert events[1] == "0/5"
    events.clear()
    embed(encoder, photos, out, notify=events.append)
    assert events == []


def test_maps_of_an_iterable_are_written_too(encoder: Encoder, photos: Path, out: Path) -> None:
    messages: list[str] = []
    names = [str(photos / name) for name in ("a.png", "c.png", "d.jpg")]
    settings = EmbedSettings(batch_size=2, maps=[-1])
    report = embed_source(encoder, iter(names), out, settings=settings, notify=messages.append)
    assert (report.rows, report.bad) == (3, 1)
    assert messages == [
        "headstrip writes map_4 (1024 x 2 x 2, float16): 8.0 KiB per image before compression."
    ]
    column = pq.read_table(out)["map_4"]
    assert [one is None for one in column.to_pylist()] == [False, True, False]
    found = column.filter(column.is_valid()).combine_chunks().to_numpy_ndarray()
    expected = maps_of(encoder, photos / "d.jpg")[-1]
    assert np.allclose(found[1], expected, rtol=1e-3, atol=1e-3)


def test_shards_and_row_groups_of_maps_are_bounded(
    encoder: Encoder, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos", [f"{number:02}.png" for number in range(12)])
    # Made small here, so that a few images fill them: each map takes 48 KiB.
    monkeypatch.setattr("headstrip.embed.parallelism._SHARD_BYTES", 200 << 10)
    monkeypatch.setattr("headstrip.embed.output.merging._GROUP_BYTES", 400 << 10)
    report = embed(encoder, tmp_path / "photos", out, maps=[0], shard_rows=None)
    assert report.settings.shard_rows == 4
    metadata = pq.ParquetFile(out).metadata
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups == [8, 4]
