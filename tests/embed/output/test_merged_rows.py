"""The merged file: its row groups, its metadata, and when it gets its name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.embed.output.shards import shards_in, write
from tests.failing import failing

from headstrip import HeadstripError, load_embeddings
from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.merging import merge
from headstrip.embed.output.paths import rows_file
from headstrip.embed.output.table import metadata_of

OUTS = pytest.mark.parametrize("name", ["out.parquet", "out.npy"])


@OUTS
def test_merging_keeps_all_rows_when_they_fill_several_row_groups(
    tmp_path: Path, name: str
) -> None:
    shards = shards_in(tmp_path / "work" / "shards", 8192 * 2 + 5, rows=4096)
    write(shards)
    merge(shards, tmp_path / name, tmp_path / "work")
    paths, embeddings, ok = load_embeddings(tmp_path / name)
    assert len(paths) == 8192 * 2 + 5
    assert ok.all()
    assert np.array_equal(embeddings[:, 0], [int(path) for path in paths])
    if name == "out.parquet":
        groups = pq.read_metadata(tmp_path / name)
        assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [
            8192,
            8192,
            5,
        ]


@OUTS
def test_the_error_names_both_counts_when_rows_and_images_differ(tmp_path: Path, name: str) -> None:
    shards = shards_in(tmp_path / "work" / "shards", 5)
    write(shards)
    shards.total = 6
    with pytest.raises(HeadstripError) as caught:
        merge(shards, tmp_path / name, tmp_path / "work")
    assert str(caught.value) == (
        f"headstrip did not write {str(tmp_path / name)!r}: it would have 5 rows for 6 images. "
        "Please report this error."
    )


def test_the_rows_beside_an_array_keep_the_shard_metadata_and_describe_the_array(
    tmp_path: Path,
) -> None:
    shards = shards_in(tmp_path / "work" / "shards", 5)
    write(shards)
    merge(shards, tmp_path / "out.npy", tmp_path / "work")
    stated = metadata_of(pq.read_schema(rows_file(tmp_path / "out.npy")))
    assert stated is not None
    array = stated.pop(ARRAY)
    assert stated.pop("rows") == 5
    assert stated == metadata_of(shards.schema)
    assert (array["dtype"], array["shape"]) == ("<f4", [5, 3])


@OUTS
def test_the_file_is_flushed_to_disk_before_it_is_renamed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_in(tmp_path / "work" / "shards", 5)
    write(shards)
    renamed_from: list[Path] = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        renamed_from.append(Path(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    with failing("fsync", "replace", at=None) as calls:
        merge(shards, tmp_path / name, tmp_path / "work")
    files = 2 if name == "out.npy" else 1
    # The last call flushes the folder itself.
    assert calls.seen == ["fsync"] * files + ["replace"] * files + ["fsync"]
    assert {source.parent for source in renamed_from} == {tmp_path / "work"}
