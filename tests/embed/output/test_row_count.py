"""A file records its number of rows, so that concatenated files are refused, not misread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import HERE, pixels, tiny_encoder

from headstrip import (
    EmbedSettings,
    HeadstripError,
    embed_source,
    find_neighbors,
    fit_predictors,
    load_embeddings,
)
from headstrip.embed.output.paths import rows_file
from headstrip.embed.output.table import metadata_in
from headstrip.errors import HeadstripWarning


@pytest.fixture
def photos(tmp_path: Path, save: Callable[..., Path]) -> Path:
    for row in range(6):
        save(f"{row}.png", row)
    return tmp_path / "photos"


@pytest.fixture
def doubled(photos: Path, tmp_path: Path) -> Path:
    """Concatenate two files of embeddings, with the metadata of the first."""
    tables = []
    for name in ("one", "two"):
        embed_source(tiny_encoder(), photos, tmp_path / f"{name}.parquet", options=HERE)
        table = pq.read_table(tmp_path / f"{name}.parquet")
        paths = pa.array([f"{name}/{path}" for path in table["path"].to_pylist()])
        tables.append(table.set_column(0, table.schema.field("path"), paths))
    pq.write_table(pa.concat_tables(tables), tmp_path / "both.parquet")
    return tmp_path / "both.parquet"


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "stream.parquet"])
def test_each_kind_of_file_records_its_number_of_rows(
    photos: Path, tmp_path: Path, name: str
) -> None:
    source = [pixels(seed) for seed in range(6)] if name.startswith("stream") else photos
    embed_source(tiny_encoder(), source, tmp_path / name, options=HERE)
    found = metadata_in(rows_file(tmp_path / name))
    assert found is not None
    assert found["rows"] == 6
    assert len(load_embeddings(tmp_path / name)[0]) == 6


def test_every_reader_refuses_concatenated_files(doubled: Path) -> None:
    message = r"both.parquet' has 12 rows, and headstrip wrote 6 .* several files .*one file"
    labels = {"path": ["one/0.png", "two/0.png"], "colour": ["red", "blue"]}
    with pytest.raises(HeadstripError, match=message):
        load_embeddings(doubled)
    with pytest.raises(HeadstripError, match=message):
        fit_predictors(doubled, labels)
    with pytest.raises(HeadstripError, match=message):
        find_neighbors(doubled, [pixels(0)], encoder=tiny_encoder())


def test_a_file_without_a_recorded_row_count_is_read(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    embed_source(tiny_encoder(), photos, out, options=HERE)
    table = pq.read_table(out)
    text = table.schema.metadata[b"headstrip"].replace(b'"rows": 6, ', b"")
    table = pa.concat_tables([table.replace_schema_metadata({b"headstrip": text})])
    pq.write_table(table, out)
    assert "rows" not in (metadata_in(out) or {"rows": 0})
    assert len(load_embeddings(out)[0]) == 6
    before = out.read_bytes()
    assert embed_source(tiny_encoder(), photos, out, options=HERE).computed == 0
    assert out.read_bytes() == before


def test_a_file_with_only_some_of_its_rows_is_read_with_a_warning(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    embed_source(tiny_encoder(), photos, out, options=HERE)
    pq.write_table(pq.read_table(out).slice(2), tmp_path / "some.parquet")
    with pytest.warns(HeadstripWarning, match=r"has 4 of the 6 rows that headstrip wrote"):
        paths, _, _ = load_embeddings(tmp_path / "some.parquet")
    assert paths == ["2.png", "3.png", "4.png", "5.png"]


def test_resuming_restores_a_file_with_removed_or_added_rows(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    settings = EmbedSettings(shard_rows=2)
    embed_source(tiny_encoder(), photos, out, settings=settings, options=HERE)
    whole, table = out.read_bytes(), pq.read_table(out)
    pq.write_table(table.slice(2), out)
    assert embed_source(tiny_encoder(), photos, out, options=HERE).computed == 2
    assert out.read_bytes() == whole
    messages: list[str] = []
    pq.write_table(pa.concat_tables([table, table]), out)
    assert (
        embed_source(tiny_encoder(), photos, out, notify=messages.append, options=HERE).computed
        == 6
    )
    assert out.read_bytes() == whole
    assert any(
        "12 rows" in message and "computes its rows again" in message for message in messages
    )
