"""Commands that take a folder that ``Encoder.save`` wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Run
from tests.cli.test_light import imported
from tests.cli.test_predict import rows_of
from tests.light_modules import HEAVY

from headstrip import Attribute, Encoder, Preprocessing, build_encoder, load_embeddings

NAME = "shufflenet_v2_x0_5"
STEPS = Preprocessing(crop=(64, 64), resize=72, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    attributes = [Attribute("tone", "class", ("dark", "light")), Attribute("age", "number")]
    return build_encoder(NAME, weights=None, preprocessing=STEPS, predictors=attributes)


@pytest.fixture(scope="module")
def folder(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("saved") / "cells"
    encoder.save(path)
    return f"{path}/"


def test_embed_writes_the_embeddings_of_the_saved_encoder(
    run: Run, folder: str, encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.parquet"
    result = run("embed", photos / "a.png", "-b", folder, "-o", out, "--workers", 0)
    assert result.exit_code == 0, result.stderr
    embedding = load_embeddings(out)[1][0]
    assert embedding == pytest.approx(encoder.embed([photos / "a.png"])[0], abs=1e-6)
    found = run("neighbors", out, "--query", photos / "a.png", "-k", 1, "--weights", folder)
    assert found.exit_code == 0, found.stderr
    assert "1.0000  a.png" in found.stdout


def test_predict_needs_only_the_saved_folder(
    run: Run, folder: str, encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    result = run("predict", photos / "a.png", "-b", folder, "-o", out, "--workers", 0)
    assert result.exit_code == 0, result.stderr
    (predicted,) = encoder.predict_labels([photos / "a.png"])
    (row,) = rows_of(out)
    # The last bits depend on the batch, which the command fills up.
    assert row["tone"] == predicted["tone"].value
    assert float(row["age"]) == pytest.approx(predicted["age"].value, abs=1e-5)
    kept = tmp_path / "kept.parquet"
    run("embed", photos / "a.png", "-b", folder, "-o", kept, "--workers", 0)
    again = tmp_path / "again.csv"
    result = run("predict", "--from-embeddings", kept, "-b", folder, "-o", again)
    assert result.exit_code == 0, result.stderr
    assert again.read_bytes() == out.read_bytes()


def test_predict_refuses_a_name_or_a_folder_without_predictors(
    run: Run, photos: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    result = run("predict", photos, "-b", NAME, "-o", out)
    assert result.exit_code == 2
    assert "`headstrip predict` needs predictors. Pass a file" in result.stderr
    build_encoder(NAME, weights=None).save(tmp_path / "bare")
    result = run("predict", photos, "-b", f"{tmp_path}/bare/", "-o", out)
    assert result.exit_code == 2
    assert "has an encoder without predictors" in result.stderr


def test_classify_and_verify_build_the_saved_encoder(run: Run, folder: str, photos: Path) -> None:
    result = run("classify", photos / "a.png", "-b", folder, "--json")
    assert result.exit_code == 0, result.stderr
    result = run("verify", folder)
    assert result.exit_code == 0, result.stderr
    assert f"{folder}  torchvision:{NAME}  has the saved fingerprint " in result.stdout
    assert json.loads(run("verify", folder, "--json").stdout)["folder"] == folder


def test_a_damaged_folder_gives_one_line_on_stderr(
    run: Run, folder: str, photos: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(folder, tmp_path / "cells")
    next(broken.glob("weights-*")).unlink()
    for command in (("classify", photos / "a.png", "-b"), ("verify",), ("show",)):
        result = run(*command, f"{broken}/")
        assert result.exit_code != 0
        assert "lacks its file weights-" in result.stderr
        assert result.stderr.count("\n") == 1


def test_options_that_the_folder_states_are_refused(run: Run, folder: str, photos: Path) -> None:
    for option, value in (("--weights", "DEFAULT2"), ("--img-size", "96"), ("--in-chans", "1")):
        result = run("classify", photos / "a.png", "-b", folder, option, value)
        assert result.exit_code == 2
        assert "already" in result.stderr


def test_show_prints_what_is_in_the_folder(run: Run, folder: str, encoder: Encoder) -> None:
    result = run("show", folder)
    assert result.exit_code == 0, result.stderr
    for words in (
        f"torchvision:{NAME}",
        "resize the shorter side to 72",
        encoder.fingerprint.identity,
        "weights-",
        "  tone (class): dark, light",
        "  age (number)",
        f"torch {torch.__version__}",
    ):
        assert words in result.stdout, result.stdout
    found = json.loads(run("show", folder, "--json").stdout)
    assert found["manifest"]["identity"] == encoder.fingerprint.identity
    assert [one["name"] for one in found["predictors"]["attributes"]] == ["tone", "age"]


def test_show_imports_nothing_heavy(folder: str) -> None:
    code = "    from headstrip.cli import main\n"
    code += f"    main(['show', {folder!r}], prog_name='headstrip')"
    assert not imported(code) & HEAVY


def test_show_refuses_a_folder_with_changed_files(run: Run, folder: str, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "cells")
    content = json.loads((broken / "encoder.json").read_text())
    content["manifest"]["weights"] = "__import__('os')"
    (broken / "encoder.json").write_text(json.dumps(content))
    result = run("show", f"{broken}/")
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    next(broken.glob("predictors-*")).write_bytes(b"\xff" * 30)
    result = run("show", f"{broken}/")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
