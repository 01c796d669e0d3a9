"""What the merged file states, for more rows than one group holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.embed.output.shards import shards_in, write

from headstrip import HeadstripError, load_embeddings
from headstrip.embed.output.merging import merge

OUTS = pytest.mark.parametrize("name", ["out.parquet", "out.npy"])


@OUTS
def test_more_rows_than_one_group_holds_are_all_there(tmp_path: Path, name: str) -> None:
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
def test_a_number_of_rows_that_is_not_that_of_the_images_is_named(
    tmp_path: Path, name: str
) -> None:
    shards = shards_in(tmp_path / "work" / "shards", 5)
    write(shards)
    shards.total = 6
    with pytest.raises(HeadstripError) as caught:
        merge(shards, tmp_path / name, tmp_path / "work")
    assert str(caught.value) == (
        f"headstrip did not write {str(tmp_path / name)!r}: it would have 5 rows for 6 images. "
        "Please report this error."
    )
