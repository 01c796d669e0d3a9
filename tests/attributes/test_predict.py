"""``predict_file``: rows, columns, and cells that no spreadsheet runs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.conftest import tiny_encoder

from headstrip import Attribute, FittedPredictors, HeadstripError, embed_source, load_embeddings
from headstrip.attributes.predict import PredictOptions, predict_file
from headstrip.encoder.comparison import describe_encoder

ATTRIBUTES = (
    Attribute("tone", "class", ("=1+1", "-light")),
    Attribute("marks", "labels", ("dot", "ring")),
    Attribute("size", "number"),
)


@pytest.fixture
def embedded(tmp_path: Path, save: Callable[..., Path]) -> Path:
    for row in range(5):
        save(f"{row}.png", row)
    (tmp_path / "photos" / "=bad.png").write_bytes(b"not an image")
    embed_source(tiny_encoder(), tmp_path / "photos", tmp_path / "out.parquet")
    return tmp_path / "out.parquet"


@pytest.fixture
def fitted() -> FittedPredictors:
    generator = torch.Generator().manual_seed(0)
    return FittedPredictors(
        ATTRIBUTES,
        {one.name: torch.randn(one.outputs, 5, generator=generator) for one in ATTRIBUTES},
        {one.name: torch.zeros(one.outputs) for one in ATTRIBUTES},
        describe_encoder(tiny_encoder()),
        {},
    )


def test_parquet_has_what_the_predictors_say(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    report = predict_file(fitted, embedded, tmp_path / "p.parquet", PredictOptions(True))
    assert (report.rows, report.bad) == (6, 1)
    table = pq.read_table(tmp_path / "p.parquet").to_pylist()
    paths, embeddings, ok = load_embeddings(embedded)
    assert [row["path"] for row in table] == paths
    expected = iter(fitted.predict(embeddings[ok]))
    for row, fine in zip(table, ok, strict=True):
        if not fine:
            assert row["error"]
            assert {value for key, value in row.items() if key not in ("path", "error")} == {None}
            continue
        found = next(expected)
        assert row["tone"] == found["tone"].value
        assert row["tone_probability"] == found["tone"].probability
        assert row["tone: =1+1"] + row["tone: -light"] == pytest.approx(1)
        assert tuple(row["marks"]) == found["marks"].value
        assert row["size"] == found["size"].value
        assert row["error"] is None


def test_no_cell_of_a_csv_begins_a_formula(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    predict_file(fitted, embedded, tmp_path / "p.csv")
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[5]["path"] == "'=bad.png"
    assert {row["tone"] for row in rows} <= {"'=1+1", "'-light", ""}
    assert all(float(row["size"]) == pytest.approx(float(row["size"])) for row in rows[:5])


def test_uncertain_classes_are_left_out_and_thresholds_select_labels(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    predict_file(fitted, embedded, tmp_path / "p.parquet", PredictOptions(False, 0.0, 1.0))
    table = pq.read_table(tmp_path / "p.parquet")
    assert set(table["tone"].to_pylist()) == {None}
    assert table["tone_probability"].null_count == 1
    assert table["marks"].to_pylist()[0] == ["dot", "ring"]


def test_embeddings_of_another_encoder_are_refused_and_nothing_is_written(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    other = FittedPredictors(
        fitted.attributes,
        fitted.weights,
        fitted.biases,
        {**fitted.encoder, "identity": "0" * 64, "dtype": "float64"},
        {},
    )
    with pytest.raises(HeadstripError, match=r"than that of '.*out.parquet': dtype is"):
        predict_file(other, embedded, tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("name", ["path", "error", "marks_probability"])
def test_columns_of_one_name_are_refused(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path, name: str
) -> None:
    attributes = (Attribute(name, "number"), ATTRIBUTES[1])
    layers = {name: fitted.weights["size"], "marks": fitted.weights["marks"]}
    biases = {name: fitted.biases["size"], "marks": fitted.biases["marks"]}
    other = FittedPredictors(attributes, layers, biases, fitted.encoder, {})
    with pytest.raises(HeadstripError, match=f"Two columns would have the name '{name}'"):
        predict_file(other, embedded, tmp_path / "p.csv")


def test_another_format_is_refused(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    with pytest.raises(HeadstripError, match=r"predictions are written as \.parquet or \.csv"):
        predict_file(fitted, embedded, tmp_path / "p.xlsx")


def test_an_embedding_of_another_width_is_refused(fitted: FittedPredictors) -> None:
    with pytest.raises(
        ValueError, match=r"shape \(2, 4\), and these predictors take \(images, 5\)"
    ):
        fitted.predict(np.zeros((2, 4), np.float32))
