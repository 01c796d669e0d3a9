"""``headstrip fit``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Run

from headstrip import build_encoder

NAME = "squeezenet1_1"
WeightsOf = Callable[[str], Path]


@pytest.fixture
def files(run: Run, tmp_path: Path, weights_of: WeightsOf) -> tuple[Path, Path]:
    """A folder per class of light and dark photos, and the file of their embeddings."""
    from PIL import Image

    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for number in range(24):
        kind = ("dark", "light")[number % 2]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 100, (40, 40, 3)) + 150 * (number % 2)
        Image.fromarray(noise.astype(np.uint8)).save(folder / kind / f"{number}.png")
    out = tmp_path / "out.parquet"
    weights = ("--weights", weights_of(NAME))
    result = run("embed", folder, "-b", NAME, *weights, "-o", out, "--workers", 0)
    assert result.exit_code == 0, result.output
    return folder, out


def test_fit_accepts_a_folder_per_class_and_its_file_builds_an_encoder(
    run: Run, files: tuple[Path, Path], tmp_path: Path, weights_of: WeightsOf
) -> None:
    folder, embedded = files
    out = tmp_path / "light.predictors.safetensors"
    result = run("fit", embedded, "--labels", folder, "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "24 images with labels"
    assert lines[2] == "Attributes with one class per image"
    assert lines[3].split()[:5] == ["attribute", "outputs", "train", "test", "C"]
    assert lines[4].split()[:4] == ["class", "2", "20", "4"]
    assert lines[5].startswith("  always the most frequent")
    assert lines[6].startswith("  fitted to shuffled labels")
    encoder = build_encoder(NAME, weights=weights_of(NAME), predictors=out)
    found = encoder.predict_labels([folder / "dark" / "0.png", folder / "light" / "1.png"])
    assert [one["class"].value for one in found] == ["dark", "light"]


def test_kept_columns_are_fitted_without_a_table(
    run: Run, files: tuple[Path, Path], tmp_path: Path, weights_of: WeightsOf
) -> None:
    folder, embedded = files
    rows = [f"{path.relative_to(folder)},{path.parent.name}\n" for path in folder.glob("*/*")]
    (folder / "list.csv").write_text("path,tone\n" + "".join(rows))
    out, encoder = tmp_path / "kept.parquet", ("-b", NAME, "--weights", weights_of(NAME))
    result = run("embed", folder / "list.csv", *encoder, "--keep", "tone", "-o", out)
    assert result.exit_code == 0, result.output
    fitted = run("fit", out, "-o", tmp_path / "a.predictors.safetensors")
    assert (fitted.exit_code, fitted.stderr) == (0, "")
    assert fitted.stdout.splitlines()[4].split()[:2] == ["tone", "2"]
    refused = run("fit", embedded, "-o", tmp_path / "b.predictors.safetensors")
    assert refused.exit_code == 1
    assert "no columns of labels. Pass a table with --labels" in refused.stderr
    refused = run("embed", folder, *encoder, "--keep", "all", "-o", tmp_path / "no.parquet")
    assert refused.exit_code == 2
    assert "--keep (keep=) copies columns of a .csv, .tsv or .parquet list" in refused.stderr


def test_json_has_the_measures_and_stderr_the_reason_for_a_column_not_fitted(
    run: Run, files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, embedded = files
    table = tmp_path / "labels.csv"
    rows = [
        f"{kind}/{path.name},{kind},same\n"
        for kind in ("dark", "light")
        for path in sorted((folder / kind).iterdir())
    ]
    table.write_text("image,light,one\n" + "".join(rows))
    out = tmp_path / "a.safetensors"
    result = run("fit", embedded, "--labels", table, "-o", out, "--json", "--kind", "light=class")
    assert result.exit_code == 1
    assert result.stderr == (
        "Not fitted: one: all 24 labels are 'same', and a predictor needs two classes.\n"
    )
    summary = json.loads(result.stdout)
    assert summary["join"]["joined"] == 24
    assert summary["attributes"]["light"]["measures"]["accuracy"]["value"] == 1
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.parquet", "--labels", "labels.csv", "-o", "a.safetensors"], "There is no file"),
        (["out.parquet", "--labels", "none.csv", "-o", "a.safetensors"], "There is no table"),
        (["out.parquet", "--labels", "labels.csv", "-o", "a.pth"], "not the name of a file of"),
        (["out.parquet", "--labels", "labels.csv", "-o", "x/a.safetensors"], "there is no folder"),
        (
            ["out.parquet", "--labels", "labels.csv", "-o", "a.safetensors", "--kind", "age"],
            "--kind 'age' is not a name with a kind",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_invalid_arguments_are_reported_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.parquet").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("path,age\n")
    result = run("fit", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "a.safetensors").exists()


BAD_TABLES = {
    "no paths": ("name,tone\n{0},dark\n", "headstrip cannot find the paths in 'bad.csv'"),
    "two labels": ("path,tone\n{0},dark\n{0},light\n", "has the path '{0}' twice"),
    "other paths": (
        "path,tone\nnone.png,dark\n",
        "'bad.csv' has labels for 1 paths, and only 0 of them",
    ),
    "no labels": ("path\n{0}\n", "no column of labels"),
    "one class": ("path,tone\n{0},dark\n{1},dark\n", "all 2 labels are 'dark'"),
    "a quote": ('path,tone\n{0},"dark\n', "cannot be read at line 2"),
    "an attribute less": ("path,tone\n{0},dark\n", "has no column 'colour'"),
}


def test_a_bad_table_is_refused_in_one_message_and_nothing_is_written(
    run: Run, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {*tmp_path.iterdir(), tmp_path / "bad.csv"}
    for case, (text, message) in BAD_TABLES.items():
        paths = ("dark/0.png", "light/1.png")
        Path("bad.csv").write_text(text.format(*paths))
        named = ["--attribute", "colour"] if case == "an attribute less" else []
        result = run("fit", files[1], "--labels", "bad.csv", "-o", "a.safetensors", *named)
        assert (result.exit_code, result.stdout) == (1, ""), case
        assert message.format(*paths) in result.stderr
        assert result.stderr.count("\n") == 1
        assert set(tmp_path.iterdir()) == before


def test_show_prints_the_attributes_and_the_report_of_a_file_of_predictors(
    run: Run, files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, embedded = files
    out = tmp_path / "light.predictors.safetensors"
    fitted = run("fit", embedded, "--labels", folder, "-o", out, "--strength", "0.01")
    shown = run("show", out)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[3] == "  class (class): dark, light"
    assert shown.stdout.endswith(fitted.stdout)
    summary = json.loads(run("show", out, "--json").stdout)
    assert summary["encoder"]["name"].startswith("torchvision:squeezenet1_1")


def test_a_report_shows_the_images_and_missing_ones_are_reported(
    run: Run, files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, embedded = files
    table, page = tmp_path / "labels.csv", tmp_path / "report.html"
    paths = sorted(one.relative_to(folder).as_posix() for one in folder.glob("*/*.png"))
    # A number is never predicted exactly, so each image that is held out is shown.
    rows = [f"{path},{number * 1.5}\n" for number, path in enumerate(paths)]
    table.write_text("path,age\n" + "".join(rows))
    arguments = ("fit", embedded, "--labels", table, "-o", tmp_path / "a.safetensors")
    result = run(*arguments, "--report", page, "--root", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    whole = page.read_text("ascii")
    assert whole.count("<img") == whole.count("<figure>") > 1
    result = run(*arguments, "--report", page, "--root", tmp_path)
    assert result.exit_code == 1
    assert "No picture of dark/" in result.stderr
    assert f"{page} lacks {whole.count('<img')} pictures" in result.stderr
    assert "<img" not in page.read_text("ascii")


@pytest.mark.parametrize(
    "name", ["labels.csv", "out.parquet", "a.safetensors", "x/a.html", "a.png"]
)
def test_an_invalid_report_path_is_refused_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for one in ("out.parquet", "labels.csv"):
        (tmp_path / one).write_text("path,age\n")
    arguments = ("out.parquet", "--labels", "labels.csv", "-o", "a.safetensors")
    result = run("fit", *arguments, "--report", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert not (tmp_path / "a.safetensors").exists()
