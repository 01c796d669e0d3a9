"""The default parallelism depends only on the device and the number of cores."""

from __future__ import annotations

import pytest

from headstrip.embed.parallelism import choose_parallelism
from headstrip.embed.settings import EmbedOptions, EmbedSettings


@pytest.mark.parametrize(
    ("threads", "inference_threads"), [(None, 4), (1, 4), (2, 2), (3, 1), (4, 1), (9, 1)]
)
def test_on_the_cpu_batches_of_16_share_the_cores(
    threads: int | None, inference_threads: int
) -> None:
    running = choose_parallelism(EmbedSettings(threads=threads), usable_cores=4)
    assert (running.batch_size, running.threads) == (16, threads or 1)
    assert (running.inference_threads, running.workers) == (inference_threads, 4)


def test_on_a_gpu_one_inference_thread_runs_batches_of_128() -> None:
    running = choose_parallelism(EmbedSettings(), device="cuda", usable_cores=4)
    assert (running.batch_size, running.inference_threads, running.threads) == (128, 1, 4)


def test_settings_of_the_caller_are_kept() -> None:
    settings = EmbedSettings(batch_size=3, threads=2, dtype="float16", shard_rows=7)
    running = choose_parallelism(
        settings, EmbedOptions(inference_threads=5, workers=0), usable_cores=4
    )
    assert running.settings == settings.over(running.settings)
    assert (running.inference_threads, running.workers) == (5, 0)


@pytest.mark.parametrize("workers", [0, 1, 8])
def test_each_inference_thread_has_a_second_batch_ready(workers: int) -> None:
    running = choose_parallelism(
        EmbedSettings(), EmbedOptions(inference_threads=3, workers=workers)
    )
    assert running.slots >= 2 * 3 + 1
