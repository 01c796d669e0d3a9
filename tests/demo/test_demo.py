"""The results that ``make demo`` prints and writes."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

import numpy as np
import pyarrow.parquet as pq
import pytest
from tools.demo import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def shown(folder):
    """Return the output of one run into ``folder``."""
    with redirect_stdout(io.StringIO()) as printed:
        code = main(
            ["--out", str(folder / "demo.parquet"), "--photographs", str(folder / "photographs")]
        )
    assert code == 0
    return printed.getvalue()


def line_of(photograph, shown):
    (line,) = re.findall(rf"^{photograph} .*$", shown, re.MULTILINE)
    return re.split(r"  +", line)


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [
        ("cat", {"tabby", "tiger cat", "Egyptian cat"}),
        ("coffee", {"espresso", "cup"}),
        ("camera", {"tripod"}),
        ("rocket", {"missile", "projectile"}),
        ("motorcycle_left", {"moped", "motor scooter"}),
        ("flower", {"daisy"}),
    ],
)
def test_each_photograph_gets_the_class_that_it_shows(photograph, classes, shown):
    first = line_of(photograph, shown)[1]
    assert first.rpartition(" ")[0] in classes


def test_the_two_pictures_of_one_motorcycle_are_nearest_to_each_other(shown):
    assert line_of("motorcycle_left", shown)[-1].startswith("motorcycle_right")
    assert line_of("motorcycle_right", shown)[-1].startswith("motorcycle_left")


def test_the_file_has_one_complete_row_per_photograph(folder, shown):
    rows = pq.read_table(folder / "demo.parquet").to_pylist()
    files = sorted(path.name for path in (folder / "photographs").iterdir())
    assert [row["path"] for row in rows] == files
    assert all(len(row["embedding"]) == 1280 and row["error"] is None for row in rows)
    assert f"Wrote {folder / 'demo.parquet'}: {len(files)} rows x 1280." in shown


def test_no_two_photographs_have_the_same_embedding(folder, shown):
    rows = pq.read_table(folder / "demo.parquet").to_pylist()
    embeddings = np.array([row["embedding"] for row in rows])
    assert len(np.unique(embeddings, axis=0)) == len(rows)


def test_the_proof_covers_every_photograph(folder, shown):
    count = len(list((folder / "photographs").iterdir()))
    assert "equals the untouched network's logits, bit for bit" in shown
    assert f"for {count} of {count} photographs" in shown


@pytest.mark.slow
def test_a_bad_image_is_reported_and_the_exit_code_is_1(tmp_path, capsys):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "torn.jpg").write_text("no picture")
    code = main(
        ["--out", str(tmp_path / "d.parquet"), "--photographs", str(tmp_path / "photographs")]
    )
    printed = capsys.readouterr()
    assert code == 1
    assert "torn.jpg" in printed.err
    assert "Traceback" not in printed.err


def test_a_photographs_folder_that_is_a_file_gives_one_line_on_stderr(tmp_path, capsys):
    (tmp_path / "file").touch()
    code = main(["--out", str(tmp_path / "d.parquet"), "--photographs", str(tmp_path / "file")])
    assert code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
