"""``headstrip predict``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Run
from tests.cli.test_fit import NAME, WeightsOf

from headstrip import Attribute, FittedPredictors, build_encoder
from headstrip.encoder.comparison import describe_encoder

CSV_COLUMNS = ["path", "tone", "tone_probability", "tone: dark", "tone: light", "error"]


@pytest.fixture
def predictors(tmp_path: Path, weights_of: WeightsOf) -> Path:
    """Predictors of one attribute for the embeddings of a SqueezeNet."""
    encoder = build_encoder(NAME, weights=weights_of(NAME))
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "tone.predictors.safetensors"
    FittedPredictors(
        (Attribute("tone", "class", ("dark", "light")),),
        {"tone": torch.randn(2, encoder.output_dim, generator=generator)},
        {"tone": torch.zeros(2)},
        describe_encoder(encoder),
        {},
    ).save(path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predict_uses_the_encoder_named_in_the_file_of_predictors(
    run: Run, photos: Path, predictors: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out, kept = tmp_path / "p.csv", tmp_path / "kept.parquet"
    own = ("--weights", weights_of(NAME), "--workers", 0)
    more = ("--all", "--keep-embeddings", kept)
    result = run("predict", photos, "-p", predictors, "-o", out, *own, *more)
    assert result.exit_code == 1
    assert result.stdout == f"{out}: 4 rows, 2 of them without an embedding\n"
    assert "2 of 4 images could not be embedded:" in result.stderr
    rows = rows_of(out)
    assert list(rows[0]) == CSV_COLUMNS
    assert [bool(row["tone"]) for row in rows] == [row["error"] == "" for row in rows]
    again = tmp_path / "again.csv"
    result = run("predict", "--from-embeddings", kept, "-p", predictors, "-o", again, "--all")
    assert result.exit_code == 1
    assert again.read_bytes() == out.read_bytes()


def test_another_backbone_is_refused_and_the_same_one_accepted(
    run: Run, photos: Path, predictors: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "p.csv"
    command = ("predict", photos / "a.png", "-p", predictors, "-o", out, "--workers", 0)
    result = run(*command, "-b", "squeezenet1_0", "--weights", weights_of("squeezenet1_0"))
    assert result.exit_code == 1
    assert "another encoder than this one: name is" in result.stderr
    assert not out.exists()
    result = run(*command, "-b", NAME, "--weights", weights_of(NAME), "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["bad"], summary["computed"], summary["failed"]) == (
        1,
        0,
        1,
        [],
    )


def test_predict_without_the_required_weights_file_gives_a_clear_error(
    run: Run, photos: Path, predictors: Path, tmp_path: Path
) -> None:
    result = run("predict", photos, "-p", predictors, "-o", tmp_path / "p.csv")
    assert result.exit_code == 1
    assert "has predictors for torchvision:squeezenet1_1" in result.stderr
    assert "--weights PATH" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs either SOURCE or --from-embeddings"),
        (["photos", "--from-embeddings", "e.parquet"], "needs either SOURCE or --from-embeddings"),
        (["--from-embeddings", "e.parquet", "-b", NAME], "Leave out -b, --weights"),
        (["--from-embeddings", "none.parquet"], "There is no file 'none.parquet'"),
        (["none"], "There is no file"),
        (["photos", "--in-chans", "1"], "Leave out --in-chans, or pass the encoder with -b"),
        (["photos", "-o", "tone.predictors.safetensors"], "would overwrite an input file"),
        (["photos", "-o", "none/p.csv"], "there is no folder"),
        (["photos", "--abstain-below", "2"], "--abstain-below"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_invalid_arguments_are_reported_before_any_work(
    run: Run,
    photos: Path,
    predictors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.parquet").write_bytes(b"")
    before = sorted(tmp_path.iterdir())
    result = run("predict", "-p", predictors.name, "-o", "p.csv", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert sorted(tmp_path.iterdir()) == before
