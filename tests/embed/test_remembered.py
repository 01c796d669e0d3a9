"""What is measured once on a machine, and used by the runs after it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstrip.embed import allocating, settling
from headstrip.embed.allocating import is_kept
from headstrip.embed.calibrate import LEFT_OUT, Measured, calibrate, is_worth
from headstrip.embed.layouts import Layout
from headstrip.embed.plan import Settings
from headstrip.embed.profile import measure_engines
from headstrip.embed.remembered import situation
from headstrip.embed.run import Options, embed_source
from headstrip.embed.sources import source_of
from headstrip.encoder import Encoder

Save = Callable[..., Path]

FAST = Measured("torch", "bf16", 40.0, 0.9999, 0.9999, 0.1)
EAGER = Measured("torch", "fp32", 20.0, 1.0, 1.0, 0.1)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(save: Save) -> Path:
    return save("a.png", 1).parent


def run(encoder: Encoder, photos: Path, out: Path, **asked: Any) -> tuple[Settings, list[str]]:
    said: list[str] = []
    options = Options(workers=0, overwrite=True)
    report = embed_source(
        encoder, photos, out, settings=Settings(**asked), options=options, say=said.append
    )
    return report.settings, said


def counted(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> list[int]:
    """Have a measurement give an answer, and count how often it is made."""
    calls: list[int] = []

    def measure(*_: Any, **__: Any) -> Any:
        calls.append(1)
        return answer

    monkeypatch.setattr(settling, name, measure)
    return calls


def test_an_engine_is_measured_once_for_each_encoder(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, "measured", [EAGER, FAST])
    first, said = run(encoder, photos, tmp_path / "1.parquet", precision="auto")
    again, later = run(encoder, photos, tmp_path / "2.parquet", precision="auto")
    assert (first.precision, again.precision, len(calls)) == ("bf16", "bf16", 1)
    assert "within the tolerance: 40.0 images/s" in said[0]
    assert "within the tolerance, as measured before: 40.0 images/s" in later[0]
    run(encoder, photos, tmp_path / "3.parquet", precision="auto", batch_size=3)
    assert len(calls) == 2


@pytest.mark.parametrize("content", ["", "[]", "null", '{"of": 1}', "damaged"])
def test_what_cannot_be_read_is_measured_again(
    encoder: Encoder, photos: Path, tmp_path: Path, cache: Path, content: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    calls = counted(monkeypatch, "measured", [EAGER])
    run(encoder, photos, tmp_path / "1.parquet", engine="auto")
    (file,) = cache.rglob("measured/*.json")
    whole = json.loads(file.read_text())
    for text in (content, json.dumps({**whole, "value": json.loads(content or "0")})
                 if content in {"", "[]", "null"} else content):  # fmt: skip
        file.write_text(text)
        run(encoder, photos, tmp_path / "1.parquet", engine="auto")
    assert len(calls) == 3


def test_a_cache_that_cannot_be_written_to_costs_the_memory_alone(
    encoder: Encoder, photos: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("no folder")
    calls = counted(monkeypatch, "measured", [EAGER])
    for _ in range(2):
        run(encoder, photos, tmp_path / "1.parquet", engine="auto")
    assert len(calls) == 2


def test_compiling_is_left_out_until_there_are_images_enough(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = Measured("compile", "fp32", unavailable=LEFT_OUT)
    calls = counted(monkeypatch, "measured", [EAGER, left_out])
    for _ in range(2):
        run(encoder, photos, tmp_path / "1.parquet", engine="auto")
    assert len(calls) == 1
    monkeypatch.setattr(settling, "is_worth", lambda images, rate: True)
    run(encoder, photos, tmp_path / "1.parquet", engine="auto")
    assert len(calls) == 2


def test_what_calibrate_found_is_used_by_runs_that_leave_it_open(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, "best_batch", Layout(2, 1, 3, False))
    used, _ = measure_engines(encoder, source_of(photos), Settings(engine="torch"))
    assert (used.batch_size, used.threads, used.channels_last) == (2, 3, False)
    settings, _ = run(encoder, photos, tmp_path / "1.parquet")
    assert (settings.batch_size, settings.threads, settings.channels_last) == (2, 3, False)
    settings, _ = run(encoder, photos, tmp_path / "1.parquet", batch_size=5)
    assert (settings.batch_size, settings.threads) == (5, 1)


def test_a_layout_is_measured_where_a_run_is_long_enough(
    encoder: Encoder, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        folder = save(f"{number}.png", 1).parent
    calls = counted(monkeypatch, "best_batch", Layout(2, 1, 1, True))
    counted(monkeypatch, "seconds_an_image", 0.5)
    settings, _ = run(encoder, folder, tmp_path / "1.parquet")
    assert (settings.batch_size, len(calls)) == (4, 0)
    counted(monkeypatch, "seconds_an_image", 0.7)
    for _ in range(2):
        settings, _ = run(encoder, folder, tmp_path / "1.parquet")
        assert (settings.batch_size, len(calls)) == (2, 1)


def test_an_engine_that_takes_longer_than_it_saves_is_left_out_and_a_slow_one_soon_given_up(
    encoder: Encoder,
) -> None:
    batches = [np.zeros((2, *encoder.input_shape[1:], 3), np.uint8)] * 3
    torch, compiled = calibrate(encoder, batches, ["torch", "compile"], ["fp32"], images=10)
    assert torch.unavailable is None
    assert compiled.unavailable == LEFT_OUT
    assert not is_worth(1000, 10.0)
    assert is_worth(10_000, 10.0)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_is_freed_can_be_kept_and_measurements_are_kept_apart(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import numpy as np, resource\n"
        "from headstrip.embed.allocating import is_kept, keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n"
        "        np.ones(1 << 24, np.uint8)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "first = faults()\n"
        "assert not is_kept()\n"
        "if keep_freed_memory():\n"
        "    assert is_kept() and keep_freed_memory()\n"
        "    assert faults() < first / 2, first\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    before = situation(encoder, "x")
    monkeypatch.setattr(allocating, "_kept", not is_kept())
    assert situation(encoder, "x") != before
