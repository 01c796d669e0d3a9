"""Real labelled pictures through ``embed``, ``fit`` and ``predict``."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.attributes.stamps import FOLDER, FOLDS, Row, copy_stamps, folds_of

from headstrip import build_encoder, embed_source, fit_predictors
from headstrip.cli import main

NAME = "efficientnet-lite:efficientnet_lite0"
DRAWS = 4
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER.is_dir(),
        reason="install tuxpaint-stamps-default, or name its folder in HEADSTRIP_STAMPS",
    ),
]


def encoder_of(weights: Any = "DEFAULT") -> Any:
    """Build an encoder that sees the whole picture: the crop would cut the ends of wide ones."""
    steps = build_encoder(NAME).preprocessing
    assert steps is not None
    whole = replace(steps, resize=steps.crop, fit="contain", fill=(255, 255, 255), crop_pct=None)
    torch.manual_seed(0)
    return build_encoder(NAME, weights=weights, preprocessing=whole)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stamps")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return copy_stamps(folder / "pictures")


@pytest.fixture(scope="module")
def embedded(folder: Path, rows: list[Row]) -> Path:
    (folder / "encoder.json").write_text(json.dumps(encoder_of().manifest()))
    out = folder / "stamps.parquet"
    run("embed", folder / "pictures", "-b", folder / "encoder.json", "-o", out)
    return out


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(one) for one in arguments], prog_name="headstrip")
    assert result.exit_code == 0, result.output
    return result.stdout


def averages(embeddings: Path, rows: list[Row], draws: int) -> dict[str, float]:
    """Return the accuracies of the class, averaged over the folds of each draw."""
    found: dict[str, list[float]] = {"measures": [], "majority": [], "shuffled": []}
    for seed in range(draws):
        folds = folds_of(rows, seed)
        for fold in range(FOLDS):
            table = {
                "path": [row[0] for row in rows],
                "kind": [row[1] for row in rows],
                "part": ["test" if one == fold else "train" for one in folds],
            }
            fitted = fit_predictors(embeddings, table, split_column="part")
            report = fitted.report["attributes"]["kind"]
            found["measures"].append(report["measures"]["accuracy"]["value"])
            found["majority"].append(report["majority"]["accuracy"])
            found["shuffled"].append(report["shuffled"]["accuracy"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_pretrained_embeddings_separate_the_classes(embedded: Path, rows: list[Row]) -> None:
    found = averages(embedded, rows, DRAWS)
    assert found["measures"] >= 0.85
    assert found["shuffled"] <= found["majority"]


def test_random_weights_are_clearly_worse(folder: Path, rows: list[Row]) -> None:
    out = folder / "random.parquet"
    embed_source(encoder_of(weights=None), folder / "pictures", out)
    found = averages(out, rows, 1)
    assert found["measures"] < 0.5


def test_three_commands_fit_and_predict_three_kinds(
    folder: Path, embedded: Path, rows: list[Row]
) -> None:
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "kind", "covered", "colours"), *rows])
    predictors, out = folder / "stamps.predictors.safetensors", folder / "predicted.csv"
    run("fit", embedded, "--labels", folder / "labels.csv", "-o", predictors)
    run("predict", folder / "pictures", "-p", predictors, "-o", out)
    report = json.loads(run("show", predictors, "--json"))["report"]["attributes"]
    assert report["kind"]["measures"]["accuracy"]["low"] > report["kind"]["majority"]["accuracy"]
    assert report["covered"]["measures"]["r2"]["value"] > 0.3
    assert report["colours"]["measures"]["map"]["value"] > 2 * report["colours"]["shuffled"]["map"]
    with open(out, newline="", encoding="utf-8") as file:
        predicted = list(csv.DictReader(file))
    assert [one["path"] for one in predicted] == sorted(row[0] for row in rows)
    truth = {row[0]: row[1] for row in rows}
    assert np.mean([one["kind"] == truth[one["path"]] for one in predicted]) > 0.9
