"""Ray writes the same rows as one machine, even when an actor or a node is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import SMALL, pixels
from tests.embed.on_ray import IMAGES

from headstrip import HeadstripError
from headstrip.embed import cluster
from headstrip.embed.cluster import EncoderUDF, on_ray

ROOT = Path(__file__).parents[2]

pytest.importorskip("ray", reason="Ray is not installed")


def run_both(folder: Path, kind: str) -> dict:
    """Run ``tests.embed.on_ray`` in a separate process, and return its JSON output."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.embed.on_ray", str(folder), kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
def test_too_many_bad_images_across_actors_end_the_run(tmp_path: Path) -> None:
    result = run_both(tmp_path, "errors")
    assert "images could not be embedded, and max_errors is 9; one is" in result["error"]
    assert result["left"] == ["here.parquet", "photographs", "there.parquet.parts"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lost"), [("whole", []), ("maps", []), ("actor", ["actor"]), ("node", ["node"])]
)
def test_ray_writes_the_same_file_as_one_machine_even_after_losses(
    tmp_path: Path, kind: str, lost: list[str]
) -> None:
    result = run_both(tmp_path, kind)
    assert result["equal"], result
    assert (result["rows"], result["bad"], result["lost"]) == (
        IMAGES,
        len(range(3, IMAGES - 1, 7)),
        lost,
    )
    if not lost:
        assert result["pages"] == [{"pages.tif": 3}] * 2
    assert result["left"] == ["here.parquet", "photographs", "there.parquet"]


def test_encoder_udf_adds_a_column_of_embeddings_to_a_batch(tmp_path: Path) -> None:
    Image.fromarray(pixels(1)).save(tmp_path / "a.png")
    embed = EncoderUDF("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL)
    arrays = embed({"image": [pixels(1), pixels(2)], "name": ["a", "b"]})
    assert arrays["embedding"].shape == (2, 1024)
    assert arrays["name"] == ["a", "b"]
    embed = EncoderUDF("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL, column="bytes")
    assert embed({"bytes": [(tmp_path / "a.png").read_bytes()]})["embedding"].dtype == np.float32
    with pytest.raises(HeadstripError, match="no column 'bytes', but 'image'"):
        embed({"image": []})


def test_a_ray_version_with_a_known_vulnerability_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    monkeypatch.setattr(ray, "__version__", "2.54.0")
    with pytest.raises(HeadstripError, match="CVE-2026-41486"):
        on_ray()


def test_the_error_names_the_extra_when_ray_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HeadstripError, match=r"pip install 'headstrip\[ray\]'"):
        cluster.on_ray()
