"""``headstrip compare``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.compare.lab import lab_in, write_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", 36)
    return tmp_path / "pictures"


@pytest.mark.slow
def test_the_table_has_warnings_first_and_ends_with_a_recommendation(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    with lab_in(tmp_path):
        work = ("--work", tmp_path / "work", "--workers", 0)
        page = ("--html", tmp_path / "page.html")
        result = run("compare", pictures, "-b", "lab:wide", "-b", "lab:noise", *work, *page)
        again = run("compare", pictures, "-b", "lab:wide", "-b", "lab:nobody", "--json", *work)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Recommended: lab:wide" in (tmp_path / "page.html").read_text(encoding="ascii")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Warning: The control 'raw 16 x 16 pixels' scores higher than lab:n")
    assert "36 images with labels; the score is the accuracy" in result.stdout
    head = next(line for line in lines if line.startswith("backbone"))
    assert head.split()[:4] == ["backbone", "score", "5-NN", "images/s"]
    wide, noise = (line for line in lines if line.startswith("lab:") and "with" not in line)
    assert wide.startswith("lab:wide ")
    assert wide.endswith("  best")
    assert " worse by " in noise
    assert lines[-1] == "Recommended: lab:wide, because lab:wide is better than every other."
    assert again.exit_code == 1
    found = json.loads(again.stdout)
    assert [(one["name"], one["status"]) for one in found["backbones"]] == [
        ("lab:wide", "compared"),
        ("lab:nobody", "failed"),
    ]
    assert found["backbones"][0]["verdict"]["text"] == "best"
    assert found["recommended"] == "lab:wide"


def test_invalid_arguments_are_refused(run: Run, pictures: Path) -> None:
    for arguments, message in (
        (["nowhere", "-b", "resnet18"], "There is no folder or list 'nowhere'."),
        ([pictures], "There is nothing to compare."),
        ([pictures, "-b", "resnet18", "--max-params", "many"], "--max-params 'many' is not"),
        ([pictures, "-b", "resnet18", "--license", ","], "--license ',' has no name"),
        ([pictures, "-b", "resnet18", "--max-params", "1k"], "leave out every backbone"),
        ([pictures, "-b", "resnet18", "--kind", "age"], "--kind 'age' is not a name"),
        ([pictures, "-b", "resnet18", "--html", "page.png"], "is not the name of a page"),
    ):
        result = run("compare", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
