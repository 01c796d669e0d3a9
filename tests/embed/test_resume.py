"""Resumed runs, and which files of the work folder headstrip removes or keeps."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.conftest import tiny_encoder
from tests.distributions import install_distribution, on_path
from tests.embed.like_windows import like_windows

from headstrip import EmbedOptions, EmbedSettings, HeadstripError, load_embeddings
from headstrip.embed.calibrate import measure_engines
from headstrip.embed.execute import execute
from headstrip.embed.pipeline import RowProgress
from headstrip.embed.plan import RunPlan
from headstrip.embed.run import EmbedReport, embed_source
from headstrip.embed.sources import source_of
from headstrip.plugins import ENGINE_GROUP

Compute = Callable[[RunPlan, RowProgress], Any]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "o.parquet"


def embed(
    source: Path,
    out: Path,
    messages: list[str] | None = None,
    compute: Compute | None = None,
    **asked: Any,
) -> EmbedReport:
    return embed_source(
        tiny_encoder(),
        source,
        out,
        settings=EmbedSettings(batch_size=2, shard_rows=2, threads=1),
        options=EmbedOptions(workers=0, inference_threads=1, **asked),
        compute=compute,
        notify=None if messages is None else messages.append,
    )


def two_shards(plan: RunPlan, progress: RowProgress) -> NoReturn:
    execute(replace(plan, todo=plan.todo[:2]), progress)
    raise KeyboardInterrupt


def begun(photos: Path, out: Path, **asked: Any) -> list[Path]:
    """Begin a run that is interrupted after two shards."""
    with pytest.raises(KeyboardInterrupt):
        embed(photos, out, compute=two_shards, **asked)
    return sorted(parts(out).glob("*/[0-9]*.parquet"))


def parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


OTHERS = [
    "0123456789abcdef/mine.txt",
    "0123456789abcdef/000000.parquet",
    "notes.txt",
    "0123456789abcdef/sub/a.jpg",
    "fedcba9876543210",
    "lock/mine",
    "plan.json",
]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_in_the_work_folder_are_named_and_kept(
    photos: Path, out: Path, name: str, overwrite: bool
) -> None:
    mine = parts(out) / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(HeadstripError, match=r"headstrip did not write( it)?\. Move (that|it)"):
        embed(photos, out, overwrite=overwrite)
    assert mine.read_text() == "mine"


def test_a_file_put_among_the_shards_is_named_and_kept(photos: Path, out: Path) -> None:
    shard, _ = begun(photos, out)
    mine = shard.with_name("mine.parquet")
    mine.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(HeadstripError, match=r"has '[0-9a-f]{16}/mine.parquet' in it"):
            embed(photos, out, overwrite=overwrite)
    mine.unlink()
    assert embed(photos, out).computed == 2


@pytest.mark.parametrize("place", [".", "generation"])
def test_files_that_appear_during_a_run_are_kept_and_reported(
    photos: Path, out: Path, place: str
) -> None:
    mine: list[Path] = []

    def compute(plan: RunPlan, progress: RowProgress) -> Any:
        folder = parts(out) if place == "." else plan.shards.folder
        mine.append(folder / "mine.txt")
        mine[0].write_text("mine")
        return execute(plan, progress)

    messages: list[str] = []
    assert embed(photos, out, messages, compute).rows == 6
    assert mine[0].read_text() == "mine"
    assert [path for path in parts(out).rglob("*") if path.is_file()] == mine
    assert "has files that headstrip did not write" in messages[-1]


def test_a_work_folder_that_is_a_link_is_refused(photos: Path, out: Path, tmp_path: Path) -> None:
    shard, _ = begun(photos, out)
    moved = tmp_path / "elsewhere"
    shutil.move(parts(out), moved)
    parts(out).symlink_to(moved)
    for overwrite in (False, True):
        with pytest.raises(HeadstripError, match="is a symbolic link"):
            embed(photos, out, overwrite=overwrite)
    assert (moved / shard.parent.name / shard.name).exists()
    parts(out).unlink()
    parts(out).symlink_to(tmp_path / "nowhere")
    with pytest.raises(HeadstripError, match="is a symbolic link"):
        embed(photos, out)
    assert not (tmp_path / "nowhere").exists()


def test_links_in_the_work_folder_are_not_followed(photos: Path, out: Path, tmp_path: Path) -> None:
    shard, _ = begun(photos, out)
    moved = tmp_path / "elsewhere"
    shutil.move(shard.parent, moved)
    shard.parent.symlink_to(moved)
    with pytest.raises(HeadstripError, match="which headstrip did not write"):
        embed(photos, out, overwrite=True)
    assert len(list(moved.iterdir())) == 3


@pytest.mark.parametrize("name", ["o.parquet", "o.npy"])
def test_overwrite_computes_every_row_and_resumes_its_own_run(
    photos: Path, out: Path, name: str
) -> None:
    out = out.with_name(name)
    embed(photos, out)
    expected = out.read_bytes()
    shutil.copy(photos / "0.png", photos / "6.png")
    # An interrupted update keeps the rows of the file, also where it has no shard yet.
    begun(photos, out)
    (photos / "6.png").unlink()
    assert embed(photos, out, overwrite=True).computed == 6
    assert out.read_bytes() == expected

    begun(photos, out, overwrite=True)
    assert embed(photos, out, overwrite=True).computed == 2
    assert out.read_bytes() == expected


@pytest.mark.parametrize("name", ["o.parquet", "o.npy"])
def test_resuming_replaces_no_file_of_something_else(photos: Path, out: Path, name: str) -> None:
    out = out.with_name(name)
    begun(photos, out)
    out.write_text("mine")
    with pytest.raises(HeadstripError, match="exists, and headstrip can update only a file of"):
        embed(photos, out)
    assert out.read_text() == "mine"
    # --overwrite replaces it.
    assert embed(photos, out, overwrite=True).rows == 6


def test_resuming_replaces_no_file_of_another_encoder(photos: Path, out: Path) -> None:
    embed(photos, other := out.with_name("other.parquet"))
    table = pq.read_table(other)
    metadata = json.loads(table.schema.metadata[b"headstrip"])
    metadata["plan"]["encoder"]["identity"] = "0" * 64
    begun(photos, out)
    pq.write_table(table.replace_schema_metadata({"headstrip": json.dumps(metadata)}), out)
    before = out.read_bytes()
    with pytest.raises(HeadstripError, match="has rows of another encoder"):
        embed(photos, out)
    assert out.read_bytes() == before


def test_an_interrupted_run_that_overwrites_is_resumed_only_with_the_option(
    photos: Path, out: Path
) -> None:
    out.write_text("mine")
    begun(photos, out, overwrite=True)
    with pytest.raises(HeadstripError, match=r"with --overwrite \(overwrite=True\)\."):
        embed(photos, out)
    assert out.read_text() == "mine"
    assert embed(photos, out, overwrite=True).computed == 2


def test_a_file_that_appears_during_a_run_is_not_replaced(photos: Path, out: Path) -> None:
    def compute(plan: RunPlan, progress: RowProgress) -> Any:
        out.write_text("mine")
        return execute(plan, progress)

    with pytest.raises(HeadstripError, match="exists, and headstrip can update only a file of"):
        embed(photos, out, compute=compute)
    assert out.read_text() == "mine"
    out.unlink()
    assert embed(photos, out).computed == 0


def test_rows_of_another_encoder_that_appear_during_a_run_are_not_replaced(
    photos: Path, out: Path
) -> None:
    other = tiny_encoder()
    other.preprocessing = replace(other.preprocessing, resize=8)

    def compute(plan: RunPlan, progress: RowProgress) -> Any:
        embed_source(other, photos, moved := out.with_name("other.parquet"))
        os.replace(moved, out)
        return execute(plan, progress)

    with pytest.raises(HeadstripError, match="has rows of another encoder"):
        embed(photos, out, compute=compute)
    assert len(load_embeddings(out)[0]) == 6
    out.unlink()
    assert embed(photos, out).computed == 0


def test_a_file_that_appears_while_images_stream_is_not_replaced(photos: Path, out: Path) -> None:
    def images() -> Iterator[Path]:
        yield photos / "0.png"
        out.write_text("mine")

    with pytest.raises(HeadstripError, match="exists, and headstrip cannot compare"):
        embed_source(tiny_encoder(), images(), out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("name", [".DS_Store", ".nfs0001", ".mine.png.12345678"])
def test_hidden_files_of_others_are_kept(photos: Path, out: Path, name: str) -> None:
    parts(out).mkdir()
    (parts(out) / name).write_text("mine")
    assert embed(photos, out).rows == 6
    assert [path.name for path in parts(out).iterdir()] == [name]


@pytest.mark.parametrize("error", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("when", ["merging", "beginning"])
def test_a_temporary_read_error_keeps_the_shard_and_is_reported(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, error: int, when: str
) -> None:
    shards = begun(photos, out)
    before = [path.read_bytes() for path in shards]

    left = [shards[0]]

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any) -> Any:
            if left and os.fsdecode(path) == str(shards[0]):
                left.pop()
                raise OSError(error, os.strerror(error), os.fsdecode(path))
            return real(path, *args)

        return call

    if when == "merging":
        monkeypatch.setattr(Path, "read_bytes", refusing(Path.read_bytes))
    else:
        monkeypatch.setattr(pa, "OSFile", refusing(pa.OSFile))
    with pytest.raises(HeadstripError, match="could not be written") as caught:
        embed(photos, out)
    assert os.strerror(error) in str(caught.value)
    assert "headstrip keeps the finished rows in" in str(caught.value)
    monkeypatch.undo()
    assert [path.read_bytes() for path in shards] == before
    assert embed(photos, out).computed == (0 if when == "merging" else 2)


def test_an_invalid_plan_file_is_refused(photos: Path, out: Path) -> None:
    begun(photos, out)
    for text in ("[" * 100_000, '{"plan": NaN, "replaces": 1}', "{}"):
        (parts(out) / "plan.json").write_text(text)
        with pytest.raises(HeadstripError, match=r"plan\.json' is damaged, or headstrip did not"):
            embed(photos, out)
    # The shards say how they were computed, so none is lost.
    (parts(out) / "plan.json").unlink()
    assert embed(photos, out).computed == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can see what it maps")
@pytest.mark.parametrize("name", ["o.parquet", "o.npy"])
def test_no_file_is_removed_or_replaced_while_it_is_open_or_mapped(
    photos: Path, out: Path, name: str
) -> None:
    target = out.with_name(name)
    begun(photos, target)
    with like_windows():
        embed(photos, target)
        embed(photos, target)
        (photos / "0.png").unlink()
        shutil.copy(photos / "1.png", photos / "9.png")
        embed(photos, target, retry_failed=True)
        embed(photos, target, checksum=True)
        embed(photos, target, overwrite=True)
        load_embeddings(target)
        embed(photos, target)
        begun(photos, target.with_name(f"again-{name}"))
        embed(photos, target.with_name(f"again-{name}"), overwrite=True)
    assert not list(out.parent.glob("*.parts"))


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can see what it maps")
def test_measuring_engines_leaves_no_file_mapped(photos: Path) -> None:
    with like_windows():
        measure_engines(
            tiny_encoder(),
            source_of(photos),
            EmbedSettings(batch_size=1, threads=1, engine="torch"),
            EmbedOptions(workers=0),
        )


def test_a_disk_that_damages_a_shard_three_times_ends_the_run(photos: Path, out: Path) -> None:
    rounds: list[int] = []

    def damaging(plan: RunPlan, progress: RowProgress) -> Any:
        done = execute(plan, progress)
        rounds.append(len(plan.todo))
        shard = plan.shards.path(1)
        shard.write_bytes(shard.read_bytes().replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfc"))
        return done

    with pytest.raises(HeadstripError, match=r"damaged 3 times.*000001\.parquet"):
        embed(photos, out, compute=damaging)
    assert rounds == [3, 1, 1]
    assert embed(photos, out).rows == 6


ENGINE = """
import torch
from headstrip.plugin_api import Engine

class Plain(Engine):
    def __init__(self, encoder, settings):
        super().__init__(encoder, settings)
        self.network = self.network_of(encoder)

    def compute(self, pixels):
        with torch.inference_mode():
            return self.network(torch.tensor(pixels)).numpy()
"""


def test_another_version_of_a_plugin_engine_is_reported(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    def run(version: str, **options: Any) -> list[str]:
        site, messages = tmp_path / version, []
        points, files = {"plain": "plain_engine:Plain"}, {"plain_engine.py": ENGINE}
        install_distribution(site, "acme-engine", points, files, version, group=ENGINE_GROUP)
        settings = EmbedSettings(engine=options.pop("engine", None), batch_size=2, threads=1)
        with on_path(site):
            embed_source(
                tiny_encoder(),
                photos,
                out,
                settings=settings,
                options=EmbedOptions(workers=0, inference_threads=1, **options),
                notify=messages.append,
            )
        return messages

    assert run("1.0", engine="plain") == []
    assert run("1.0", exact=True) == []
    assert "acme-engine was '1.0' and is '2.0'" in run("2.0")[0]
    with pytest.raises(HeadstripError, match=r"another environment: acme-engine was '1\.0'"):
        run("2.0", exact=True)
