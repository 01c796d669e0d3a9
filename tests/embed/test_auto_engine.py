"""A run measures engines only on request; a plain run uses the default settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstrip import EmbedOptions, EmbedSettings
from headstrip.embed import calibrate as module
from headstrip.embed import calibrate_batches
from headstrip.embed.calibrate import (
    LEFT_OUT,
    Measured,
    calibrate,
    is_worth_compiling,
    measure_engines,
)
from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.run import embed_source
from headstrip.embed.sources import source_of
from headstrip.encoder.encoder import Encoder

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


def run(encoder: Encoder, photos: Path, out: Path, **asked: Any) -> tuple[EmbedSettings, list[str]]:
    messages: list[str] = []
    options = EmbedOptions(workers=0, overwrite=True)
    report = embed_source(
        encoder,
        photos,
        out,
        settings=EmbedSettings(**asked),
        options=options,
        notify=messages.append,
    )
    return report.settings, messages


def counted(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> list[int]:
    """Replace a measurement by a fixed answer, and count the calls."""
    calls: list[int] = []

    def measure(*_: Any, **__: Any) -> Any:
        calls.append(1)
        return answer

    monkeypatch.setattr(module, name, measure)
    return calls


def test_auto_measures_and_a_resumed_run_keeps_the_chosen_settings(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, "calibrate", [EAGER, FAST])
    first, messages = run(encoder, photos, tmp_path / "1.parquet", precision="auto")
    assert (first.precision, len(calls)) == ("bf16", 1)
    assert "within the tolerance: 40.0 images/s" in messages[0]
    settings = EmbedSettings(precision="auto")
    report = embed_source(encoder, photos, tmp_path / "1.parquet", settings=settings)
    assert (report.settings.precision, len(calls)) == ("bf16", 1)
    run(encoder, photos, tmp_path / "2.parquet", precision="auto")
    assert len(calls) == 2


def test_a_plain_run_measures_nothing_and_caches_nothing(
    encoder: Encoder, save: Save, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(120):
        folder = save(f"{number}.png", number).parent
    calls = counted(monkeypatch, "calibrate", []) + counted(monkeypatch, "best_batch", None)
    outs = [tmp_path / "1" / "out.parquet", tmp_path / "2" / "out.parquet"]
    for out in outs:
        out.parent.mkdir()
        settings, messages = run(encoder, folder, out)
        assert (settings.batch_size, settings.threads, messages) == (16, 1, [])
    assert not calls
    assert not (cache / "measured").exists()
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.slow
def test_measuring_engines_does_not_change_later_runs(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, "best_batch", EmbedSettings(batch_size=2, threads=3))
    used, _ = measure_engines(encoder, source_of(photos), EmbedSettings(engine="torch"))
    assert (used.batch_size, used.threads) == (2, 3)
    settings, _ = run(encoder, photos, tmp_path / "1.parquet")
    assert (settings.batch_size, settings.threads) == (16, 1)
    used, _ = measure_engines(
        encoder, source_of(photos), EmbedSettings(engine="torch", batch_size=5)
    )
    assert (used.batch_size, used.threads) == (5, None)


@pytest.mark.parametrize("settings", [EmbedSettings(), EmbedSettings(batch_size=2)])
def test_calibrating_uses_the_requested_number_of_inference_threads(
    encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch, settings: EmbedSettings
) -> None:
    pools: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, count: int, **others: Any) -> None:
            pools.append(count)
            super().__init__(count, **others)

    monkeypatch.setattr(calibrate_batches, "ThreadPoolExecutor", Pool)
    settings = replace(settings, engine="torch", precision="fp32")
    measure_engines(
        encoder, source_of(photos), settings, EmbedOptions(workers=0, inference_threads=3)
    )
    assert {*pools} == {3}


@pytest.mark.parametrize("decode_mode", ["exact", "fast"])
def test_calibrating_decodes_images_in_the_decode_mode_of_the_run(
    encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch, decode_mode: str
) -> None:
    modes: list[str] = []

    class Pool(DecodePool):
        def __init__(self, *parts: Any, mode: Any = "exact", **others: Any) -> None:
            modes.append(mode)
            super().__init__(*parts, mode=mode, **others)

    monkeypatch.setattr(module, "DecodePool", Pool)
    settings = EmbedSettings(
        engine="torch", precision="fp32", batch_size=4, decode_mode=decode_mode
    )
    measure_engines(encoder, source_of(photos), settings, EmbedOptions(workers=0))
    assert modes == [decode_mode]


def test_every_inference_thread_has_a_batch_while_an_engine_is_measured(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    class Pool(ThreadPoolExecutor):
        def map(self, function: Any, *batches: Any, **others: Any) -> Any:
            counts.append(len(batches[0]))
            return super().map(function, *batches, **others)

    monkeypatch.setattr(calibrate_batches, "ThreadPoolExecutor", Pool)
    batches = [np.zeros((1, *encoder.input_shape[1:], 3), np.uint8)] * 2
    (measured,) = calibrate(encoder, batches, ["torch"], ["fp32"], inference_threads=3)
    assert measured.unavailable is None
    assert min(counts) >= 3


def test_calibrate_leaves_out_an_engine_that_compiles_longer_than_it_would_save(
    encoder: Encoder,
) -> None:
    batches = [np.zeros((2, *encoder.input_shape[1:], 3), np.uint8)] * 3
    torch, compiled = calibrate(encoder, batches, ["torch", "compile"], ["fp32"], images=10)
    assert torch.unavailable is None
    assert compiled.unavailable == LEFT_OUT
    assert not is_worth_compiling(1000, 10.0)
    assert is_worth_compiling(10_000, 10.0)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_the_allocator_can_keep_freed_memory() -> None:
    code = (
        "import numpy as np, resource\n"
        "from headstrip.system.allocator import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n"
        "        np.ones(1 << 24, np.uint8)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "first = faults()\n"
        "if keep_freed_memory():\n"
        "    assert keep_freed_memory()\n"
        "    assert faults() < first / 2, first\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
