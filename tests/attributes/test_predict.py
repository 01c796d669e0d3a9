"""Files of predictions: rows, columns, and cells that no spreadsheet runs as formulas."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.conftest import HERE, tiny_encoder

from headstrip import (
    Attribute,
    FittedPredictors,
    HeadstripError,
    embed_source,
    load_embeddings,
)
from headstrip.attributes.joining import images_of_file, join
from headstrip.attributes.labels import labels_in, read_labels
from headstrip.attributes.predict import PredictOptions, predict_file, predict_source
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
    embed_source(tiny_encoder(), tmp_path / "photos", tmp_path / "out.parquet", options=HERE)
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


def test_parquet_has_the_values_of_the_predictors(
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


def test_no_cell_of_a_csv_starts_a_formula(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    predict_file(fitted, embedded, tmp_path / "p.csv")
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[5]["path"] == "'=bad.png"
    assert {row["tone"] for row in rows} <= {"'=1+1", "'-light", ""}
    assert all(float(row["size"]) == pytest.approx(float(row["size"])) for row in rows[:5])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_path_starts_a_formula(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path, start: str
) -> None:
    table = pq.read_table(embedded)
    paths = pa.array([f"{start}1+{row}.png" for row in range(len(table))])
    table = table.set_column(0, table.schema.field("path"), paths)
    pq.write_table(table, tmp_path / "e.parquet")
    predict_file(fitted, tmp_path / "e.parquet", tmp_path / "p.csv")
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [
            f"'{path}" for path in paths.to_pylist()
        ]


def test_predictions_in_csv_are_read_back_as_labels_of_the_same_images(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    classes = ("=1+1", "-1", "+", "-1+1", "'q", "@a", "plain")
    attributes = (Attribute("=tone", "class", classes), Attribute("marks", "labels", ("=a", "-")))
    odd = FittedPredictors(
        attributes,
        {"=tone": torch.randn(7, 5), "marks": torch.zeros(2, 5)},
        {"=tone": torch.zeros(7), "marks": torch.zeros(2)},
        fitted.encoder,
        {},
    )
    table = pq.read_table(embedded)
    paths = ["=0.png", "-1.png", "'+2.png", "'3.png", "+4", "5.png"]
    table = table.set_column(0, table.schema.field("path"), pa.array(paths))
    pq.write_table(table, tmp_path / "e.parquet")
    predict_file(odd, tmp_path / "e.parquet", tmp_path / "p.csv")
    predict_file(odd, tmp_path / "e.parquet", tmp_path / "p.parquet")
    images = images_of_file(tmp_path / "e.parquet")
    joined = join(images, read_labels(tmp_path / "p.csv"))
    expected = join(images, read_labels(tmp_path / "p.parquet"))
    assert joined.paths == expected.paths == sorted(path for path in paths if path != "5.png")
    assert joined.columns["=tone"] == expected.columns["=tone"]
    found = [tuple(labels_in(cell)) for cell in joined.columns["marks"]]
    assert found == expected.columns["marks"] == [("=a", "-")] * 5
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [
            *("'=0.png", "'-1.png", "'+2.png", "'3.png", "+4", "5.png")
        ]


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
def test_two_columns_with_the_same_name_are_refused(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path, name: str
) -> None:
    attributes = (Attribute(name, "number"), ATTRIBUTES[1])
    layers = {name: fitted.weights["size"], "marks": fitted.weights["marks"]}
    biases = {name: fitted.biases["size"], "marks": fitted.biases["marks"]}
    other = FittedPredictors(attributes, layers, biases, fitted.encoder, {})
    with pytest.raises(HeadstripError, match=f"Two columns would have the name '{name}'"):
        predict_file(other, embedded, tmp_path / "p.csv")


def test_predicting_a_source_gives_the_same_file_as_predicting_its_embeddings(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    report, run = predict_source(
        fitted, tiny_encoder(), tmp_path / "photos", tmp_path / "p.csv", run=HERE
    )
    assert (report.rows, report.bad, run.computed) == (6, 1, 6)
    assert list(run.failed) == ["=bad.png"]
    predict_file(fitted, embedded, tmp_path / "same.csv")
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "same.csv").read_bytes()
    assert {path.name for path in tmp_path.glob("p.csv*")} == {"p.csv"}


def test_a_stopped_run_resumes_with_its_embeddings(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    arguments = (fitted, tiny_encoder(), tmp_path / "photos", tmp_path / "p.csv")
    with pytest.raises(HeadstripError, match="max_errors is 0"):
        predict_source(*arguments, run=replace(HERE, max_errors=0))
    assert not (tmp_path / "p.csv").exists()
    assert (tmp_path / "p.csv.predicting").is_dir()
    _, run = predict_source(*arguments, run=HERE)
    assert run.computed == 0
    assert not (tmp_path / "p.csv.predicting").exists()


def test_kept_embeddings_are_reused(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path, save: Callable[..., Path]
) -> None:
    save("new.png", 9)
    _, run = predict_source(
        fitted,
        tiny_encoder(),
        tmp_path / "photos",
        tmp_path / "p.parquet",
        embeddings=embedded,
        run=HERE,
    )
    assert (run.rows, run.computed) == (7, 1)
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 7
    with pytest.raises(HeadstripError, match="is the file of embeddings too"):
        predict_source(
            fitted, tiny_encoder(), tmp_path / "photos", embedded, embeddings=embedded, run=HERE
        )
    assert len(load_embeddings(embedded)[0]) == 7


@pytest.mark.parametrize(
    ("kept", "out"),
    [("e.parquet", "e.parquet"), ("e.parquet", "link/e.parquet"), ("e.npy", "e.rows.parquet")],
)
def test_predictions_never_replace_the_embeddings(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path, kept: str, out: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(HeadstripError, match="is the file of embeddings too"):
        predict_source(
            fitted,
            tiny_encoder(),
            tmp_path / "photos",
            tmp_path / out,
            embeddings=tmp_path / kept,
            run=HERE,
        )
    assert not (tmp_path / kept).exists()
    embed_source(tiny_encoder(), tmp_path / "photos", tmp_path / kept, options=HERE)
    with pytest.raises(HeadstripError, match="is the file of embeddings too"):
        predict_file(fitted, tmp_path / kept, tmp_path / out)
    assert len(load_embeddings(tmp_path / kept)[0]) == 6


def test_another_encoder_is_refused_before_any_image_is_read(
    fitted: FittedPredictors, tmp_path: Path
) -> None:
    other = tiny_encoder()
    with torch.no_grad():
        next(other.backbone.parameters())[0] += 1
    with pytest.raises(HeadstripError, match="the values of the parameters differ"):
        predict_source(fitted, other, tmp_path / "photos", tmp_path / "p.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_the_images_is_not_replaced(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "photos.csv"
    listed.write_text("path\nphotos/0.png\n")
    with pytest.raises(HeadstripError, match=r"photos\.csv"):
        predict_source(fitted, tiny_encoder(), listed, listed, run=HERE)
    assert listed.read_text() == "path\nphotos/0.png\n"


def test_another_output_format_is_refused(
    fitted: FittedPredictors, embedded: Path, tmp_path: Path
) -> None:
    with pytest.raises(HeadstripError, match=r"predictions are written as \.parquet or \.csv"):
        predict_file(fitted, embedded, tmp_path / "p.xlsx")


def test_an_embedding_of_another_width_is_refused(fitted: FittedPredictors) -> None:
    with pytest.raises(
        ValueError, match=r"shape \(2, 4\) .* these predictors take numbers of shape \(images, 5\)"
    ):
        fitted.predict(np.zeros((2, 4), np.float32))


def test_any_array_of_finite_numbers_is_predicted(fitted: FittedPredictors) -> None:
    points = np.arange(10, dtype=np.float32).reshape(2, 5)
    expected = fitted.predict(points)
    for given in (
        points.tolist(),
        torch.from_numpy(points),
        points.astype(">f8"),
        points.astype(int),
    ):
        assert fitted.predict(given) == expected
    assert fitted.predict(points[::-1]) == expected[::-1]
    for given in (points + np.array([[0], [np.nan]]), points.astype(float) * 1e39):
        with pytest.raises(ValueError, match=r"Image . has no prediction of 'tone': its embedding"):
            fitted.predict(given)
    for given in ("abc", [[1, 2], [3]], torch.zeros(2, 5, requires_grad=True)):
        with pytest.raises(ValueError, match="embeddings is a"):
            fitted.predict(given)
