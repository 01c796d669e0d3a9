"""``keep``: columns of a list are copied into the file of embeddings, and can be fitted."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import HERE, tiny_encoder

from headstrip import (
    EmbedSettings,
    HeadstripError,
    OptionError,
    embed_source,
    fit_predictors,
    source_of,
)
from headstrip.embed.output.paths import rows_file
from headstrip.embed.output.table import schema_of
from headstrip.embed.sources.kept import OWN_COLUMNS

ROWS = 12


@pytest.fixture
def photos(tmp_path: Path, save: Callable[..., Path]) -> Path:
    for row in range(ROWS):
        save(f"{row:02d}.png", row)
    return tmp_path / "photos"


@pytest.fixture
def listed(photos: Path) -> Path:
    rows = [f"{row:02d}.png,{('red', 'blü')[row % 2]},{row},x|y\n" for row in range(ROWS)]
    path = photos / "list.csv"
    path.write_text("file,colour,age,marks\n" + "".join(rows), encoding="utf-8")
    return path


def embed(listed: Path, out: Path, keep: Any = "all", **settings: Any) -> Any:
    source = source_of(listed, column="file", keep=keep)
    return embed_source(
        tiny_encoder(), source, out, settings=EmbedSettings(**settings), options=HERE
    )


def test_own_columns_match_the_schema_of_a_file() -> None:
    assert tuple(schema_of(3, "float32", {}).names) == OWN_COLUMNS


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_columns_of_a_csv_are_copied_and_fitted(listed: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    embed(listed, out)
    table = pq.read_table(rows_file(out))
    assert table.schema.names[-3:] == ["colour", "age", "marks"]
    assert table["colour"].to_pylist() == ["red", "blü"] * (ROWS // 2)
    assert table["age"].to_pylist() == list(map(str, range(ROWS)))
    beside = fit_predictors(out, listed, attributes=["colour"], strengths=[1.0])
    kept = fit_predictors(out, attributes=["colour"], strengths=[1.0])
    assert kept.attributes == beside.attributes
    assert kept.report == beside.report
    assert fit_predictors(out, out, attributes=["colour"], strengths=[1.0]).report == kept.report


def test_column_types_of_a_parquet_list_are_kept(photos: Path, tmp_path: Path) -> None:
    columns = {
        "path": ["00.png", "01.png", "02.png"],
        "text": pa.array(["a", "NaN", None]).dictionary_encode(),
        "whole": pa.array([1, None, 3], pa.uint64()),
        "real": pa.array([0.1, float("nan"), None], pa.float32()),
        "price": pa.array([Decimal("1.5"), None, Decimal(2)]),
        "yes": [True, None, False],
        "marks": [["a", "b"], [], None],
        "none": pa.nulls(3),
    }
    pq.write_table(pa.table(columns), photos / "list.parquet")
    source = source_of(photos / "list.parquet", keep="all")
    embed_source(tiny_encoder(), source, tmp_path / "out.parquet", options=HERE)
    found = pq.read_table(tmp_path / "out.parquet").select(list(columns))
    assert found.schema.field("whole").type == pa.uint64()
    assert found.schema.field("real").type == pa.float32()
    assert repr(found.to_pydict()) == repr(
        {**pa.table(columns).to_pydict(), "price": [1.5, None, 2.0]}
    )


@pytest.mark.slow
def test_a_changed_cell_is_written_and_no_image_is_computed_again(
    listed: Path, tmp_path: Path
) -> None:
    out, fresh = tmp_path / "out.parquet", tmp_path / "fresh.parquet"
    embed(listed, out)
    before = out.read_bytes()
    assert embed(listed, out).computed == 0
    assert out.read_bytes() == before
    for keep in ("all", ["colour"], (), ["age", "colour"]):
        listed.write_text(listed.read_text("utf-8").replace("00.png,red", "00.png,green"), "utf-8")
        assert embed(listed, out, keep).computed == 0
        embed(listed, fresh, keep)
        assert out.read_bytes() == fresh.read_bytes()
        fresh.unlink()


def test_a_resumed_run_writes_the_same_bytes(listed: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    embed(listed, whole, shard_rows=4)

    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    source = source_of(listed, column="file", keep="all")
    settings = EmbedSettings(shard_rows=4)
    with pytest.raises(KeyboardInterrupt):
        embed_source(tiny_encoder(), source, out, settings=settings, progress=stop, options=HERE)
    assert not out.exists()
    embed(listed, out, shard_rows=4)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("text", "keep", "message"),
    [
        ("file,a\nx,1\n", ["b"], r"no column 'b' to keep; its columns: 'file', 'a'"),
        ("file,size\nx,1\n", "all", r"'size' of .*: it is a name that headstrip writes itself"),
        ("file,map_4\nx,1\n", ["map_4"], r"'map_4' of .*: it is a name that headstrip writes"),
        ("file,tokens_11\nx,1\n", "all", r"'tokens_11' of .*: it is a name that headstrip writes"),
        ("file,a,a\nx,1,2\n", ["a"], r"'a' more than once"),
        ("file,a\nx,1\n", ["a", "a"], r"'a' of .* cannot be kept: it is twice"),
        ("file,a,\nx,1,2\n", "all", r"'' of .* cannot be kept"),
    ],
)
def test_the_error_names_a_column_that_cannot_be_kept(
    tmp_path: Path, text: str, keep: Any, message: str
) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(HeadstripError, match=message):
        source_of(tmp_path / "list.csv", column="file", keep=keep)


def test_dates_and_text_in_latin_1_are_refused(photos: Path, tmp_path: Path) -> None:
    dates = pa.table({"path": ["00.png"], "day": pa.array([0], pa.date32())})
    pq.write_table(dates, photos / "list.parquet")
    with pytest.raises(HeadstripError, match=r"'day' .* cells are of the type date32\[day\]"):
        source_of(photos / "list.parquet", keep="all")
    (photos / "list.csv").write_bytes("path,a\n00.png,grün\n".encode("latin-1"))
    source = source_of(photos / "list.csv", keep="all")
    with pytest.raises(HeadstripError, match=r"text at line 2 that is not UTF-8"):
        embed_source(tiny_encoder(), source, tmp_path / "out.parquet", options=HERE)
    assert not (tmp_path / "out.parquet").exists()


def test_sources_without_columns_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n")
    (tmp_path / "list.jsonl").write_text('{"path": "a.png"}\n')
    for source in (
        photos,
        photos / "00.png",
        tmp_path / "list.txt",
        tmp_path / "list.jsonl",
        ["a"],
    ):
        with pytest.raises(HeadstripError, match=r"--keep \(keep=\) copies columns of a .csv"):
            source_of(source, keep="all")


def test_a_file_without_kept_columns_has_no_labels(photos: Path, tmp_path: Path) -> None:
    embed_source(tiny_encoder(), photos, tmp_path / "out.parquet", options=HERE)
    with pytest.raises(HeadstripError, match=r"no columns of labels. Pass a table with --labels"):
        fit_predictors(tmp_path / "out.parquet")
    with pytest.raises(OptionError, match="An array of embeddings has no labels"):
        fit_predictors(np.zeros((3, 2)), paths=list("abc"))
