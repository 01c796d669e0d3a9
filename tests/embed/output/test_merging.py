"""Merging all shards into one file: rows in order in both formats, or no file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.embed.output.shards import DIM, shards_in, write
from tests.failing import failing

from headstrip import HeadstripError, load_embeddings
from headstrip.embed.output.merging import DamagedShard, merge
from headstrip.embed.output.table import metadata_of
from headstrip.embed.output.work_dir import Shards

OUTS = pytest.mark.parametrize("name", ["out.parquet", "out.npy"])


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    shards = shards_in(tmp_path / "work" / "shards", 5)
    write(shards, bad=("03",))
    return shards


def merged(shards: Shards, out: Path) -> None:
    merge(shards, out, shards.folder.parent)


@OUTS
def test_merged_rows_are_in_order_and_bad_images_have_no_embedding(
    shards: Shards, tmp_path: Path, name: str
) -> None:
    merged(shards, tmp_path / name)
    paths, embeddings, ok = load_embeddings(tmp_path / name)
    assert paths == ["00", "01", "02", "03", "04"]
    assert ok.tolist() == [True, True, True, False, True]
    assert embeddings[ok].tolist() == [[float(number)] * DIM for number in (0, 1, 2, 4)]
    assert np.isnan(embeddings[3]).all()


def test_merging_keeps_float16(tmp_path: Path) -> None:
    shards = shards_in(tmp_path / "work" / "shards", 3, dtype="float16")
    write(shards)
    for name in ("out.parquet", "out.npy"):
        merged(shards, tmp_path / name)
        assert load_embeddings(tmp_path / name)[1].dtype == np.float16


@OUTS
def test_the_shard_size_does_not_change_the_file(tmp_path: Path, name: str) -> None:
    files = []
    for rows in (1, 2, 5):
        shards = shards_in(tmp_path / str(rows) / "shards", 5, rows=rows)
        write(shards)
        merged(shards, tmp_path / str(rows) / name)
        files.append((tmp_path / str(rows) / name).read_bytes())
    assert files[0] == files[1] == files[2]


def test_the_parquet_file_has_the_schema_and_metadata_of_the_shards(
    shards: Shards, tmp_path: Path
) -> None:
    merged(shards, tmp_path / "out.parquet")
    found = pq.read_schema(tmp_path / "out.parquet")
    assert found.equals(shards.schema)
    assert metadata_of(found) == {**(metadata_of(shards.schema) or {}), "rows": 5}


@OUTS
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_damaged_shard_is_removed_and_the_old_file_stays(
    shards: Shards, tmp_path: Path, name: str, damage: str
) -> None:
    merged(shards, out := tmp_path / name)
    before = out.read_bytes()
    shards.path(1).unlink() if damage == "missing" else shards.path(1).write_bytes(b"")
    with pytest.raises(DamagedShard, match=r"000001\.parquet"):
        merged(shards, out)
    assert [shards.path(number).exists() for number in range(3)] == [True, False, True]
    assert out.read_bytes() == before
    assert os.listdir(shards.folder.parent) == ["shards"]


@OUTS
def test_a_temporary_read_error_removes_no_shard(
    shards: Shards, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        merged(shards, tmp_path / name)
    assert all(shards.path(number).exists() for number in range(3))


@OUTS
def test_merging_refuses_a_row_count_that_differs_from_the_image_count(
    shards: Shards, tmp_path: Path, name: str
) -> None:
    shards.total = 6
    with pytest.raises(HeadstripError, match="it would have 5 rows for 6 images"):
        merged(shards, tmp_path / name)
    assert not (tmp_path / name).exists()


@OUTS
def test_a_full_disk_at_any_call_leaves_the_old_file_unchanged(
    shards: Shards, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    merged(shards, out)
    before = out.read_bytes()
    for at in range(100):
        with failing("open", "write", "fsync", "replace", at=at) as calls:
            try:
                merged(shards, out)
            except OSError:
                assert calls.hit
                assert out.read_bytes() == before
                assert os.listdir(shards.folder.parent) == ["shards"]
        if not calls.hit:
            return
    raise AssertionError("the calls do not end")
