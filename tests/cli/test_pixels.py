"""``--background`` and ``--value-range`` of the commands that read images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.cli.conftest import Run

NAME = "mobilenet_v3_small"
WeightsOf = Callable[[str], Path]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Save pictures of 8 bits, of 12 bits in a 16-bit type, all transparent, and plain."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    grey = np.random.default_rng(5).integers(0, 256, (40, 50), np.uint8)
    grey[0, :2] = 0, 255
    Image.fromarray(grey).save(folder / "8.png")
    Image.fromarray(np.round(grey * (4095 / 255)).astype(np.uint16)).save(folder / "12.tif")
    Image.new("RGBA", (50, 40), (90, 20, 60, 0)).save(folder / "clear.png")
    Image.new("RGB", (50, 40), "#102030").save(folder / "plain.png")
    return folder


def rows(out: Path) -> dict[str, list[float]]:
    table = pq.read_table(out, columns=["path", "embedding"]).to_pydict()
    return dict(zip(table["path"], table["embedding"], strict=True))


def test_embed_reads_deep_and_transparent_images_according_to_its_options(
    run: Run, pictures: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "out.parquet"
    line = ["embed", pictures, "-b", NAME, "--weights", weights_of(NAME), "-o", out]
    first = run(*line)
    assert first.exit_code == 1
    assert "12.tif: The image has pixels of 16 bits" in first.stderr
    assert "--value-range 0,4095" in first.stderr
    options = ["--value-range", "0,4095", "--background", "#102030"]
    assert '"value_range": [0.0, 4095.0]' in run(*line, *options).stderr
    assert run(*line, *options, "--overwrite").exit_code == 0
    found = rows(out)
    assert found["12.tif"] == found["8.png"]
    assert found["clear.png"] == found["plain.png"]


def test_classify_and_neighbors_accept_value_range_and_background_too(
    run: Run, pictures: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    weights, out = weights_of(NAME), tmp_path / "out.parquet"
    options = ["--value-range", "0,4095", "--background", "#102030"]
    names = ["8.png", "12.tif", "plain.png", "clear.png"]
    line = ["-b", NAME, "--weights", weights]
    images = [pictures / name for name in names]
    classified = json.loads(run("classify", *images, *line, *options, "--json").stdout)
    assert classified[0]["classes"] == classified[1]["classes"]
    assert classified[2]["classes"] == classified[3]["classes"]
    assert run("embed", pictures, *line, "-o", out, *options).exit_code == 0
    queries = [part for image in images for part in ("-q", image)]
    found = run("neighbors", out, *queries, "-k", 2, "--weights", weights, "--json")
    best = [[each["path"] for each in query["neighbors"]] for query in json.loads(found.stdout)]
    assert [set(pair) for pair in best] == [{"8.png", "12.tif"}] * 2 + [
        {"plain.png", "clear.png"}
    ] * 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--value-range", "4095,0", "value_range='4095,0' is not a range of values."),
        ("--value-range", "full", "value_range='full' is not a range of values."),
        ("--background", "red", "background='red' is not a colour."),
    ],
)
def test_an_invalid_range_or_colour_is_refused_before_anything_is_built(
    run: Run, pictures: Path, option: str, value: str, message: str
) -> None:
    result = run("classify", pictures / "8.png", "-b", NAME, option, value)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_negative_value_range_is_not_taken_for_an_option(
    run: Run, pictures: Path, weights_of: WeightsOf
) -> None:
    result = run(
        "classify",
        pictures / "12.tif",
        "-b",
        NAME,
        "--weights",
        weights_of(NAME),
        "--value-range",
        "-1000,3000",
        "-k",
        1,
    )
    assert result.exit_code == 0
