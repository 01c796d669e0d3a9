"""Measures which batches are fastest on this machine, for eager torch in fp32 on the CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from headstrip.embed.engines.engine import Engine
from headstrip.embed.engines.make import make_engine, torch_threads
from headstrip.embed.parallelism import Parallelism, choose_parallelism, cores
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.system.interrupts import interrupts_held

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

BATCH_SIZES = (16, 8, 4, 32, 2, 1)
"""Batch sizes to measure; those that are fastest most often come first."""

_MIN_GAIN = 1.05
"""How much faster other batches must be than the best so far."""

_BATCHES_PER_THREAD = 2

_DECODE_SECONDS = 0.003
"""CPU time to decode a photograph of 500 x 375 pixels and resize it to 224 x 224."""


def best_batch(
    encoder: Encoder, *, inference_threads: int | None = None, seconds: float = 20.0
) -> EmbedSettings:
    """Measure for a short time which batches are fastest, for eager torch in fp32 on the CPU.

    It starts with the fixed rule, and tries other sizes, each with one thread for every batch, with
    two and with all, as far as the inference threads leave cores for them. Another choice must be
    5 % faster. Other programs that use the processor at the same time make the result unreliable.

    Args:
        encoder: An encoder of images, with a preprocessing, on the CPU.
        inference_threads: Inference threads; None for as many as the cores allow.
        seconds: After this time no other choice is tried: a network that is slow on this machine
            keeps the fixed rule.

    Returns:
        The batch size and the threads; all other settings are None.

    Raises:
        PreprocessingError: The encoder takes clips, or has no preprocessing.

    Example:
        >>> best_batch(encoder).batch_size  # doctest: +SKIP
        16
    """
    until = time.perf_counter() + seconds
    count, options = cores(), EmbedOptions(inference_threads=inference_threads)
    best, shortest = choose_parallelism(EmbedSettings(), options), math.inf
    # The first choice is the fixed rule.
    choices = [
        choose_parallelism(EmbedSettings(batch_size=size, threads=threads), options)
        for size in BATCH_SIZES
        for threads in dict.fromkeys((1, 2, count))
        if threads == 1 or (count % threads == 0 and threads * (inference_threads or 1) <= count)
    ]
    for choice in choices:
        # In a run, decoding takes a core from the network at times. Threads that share a batch all
        # wait for the one whose core is taken.
        waiting = _DECODE_SECONDS / choice.inference_threads
        duration = 1 / images_per_second(encoder, choice) + waiting
        if _MIN_GAIN * duration < shortest:
            best, shortest = choice, duration
        if time.perf_counter() > until:
            break
    return EmbedSettings(batch_size=best.batch_size, threads=best.threads)


def images_per_second(encoder: Encoder, running: Parallelism) -> float:
    """Run blank images: two batches per inference thread, after a first one."""
    with torch_threads(running.threads):
        forward = make_engine(encoder, running.settings)
        pixels = [np.zeros(forward.pixels_shape, np.uint8)]
        count = _BATCHES_PER_THREAD * running.inference_threads
        embeddings, seconds = run_batches(forward, pixels * count, running.inference_threads)
    return len(embeddings) / seconds


def run_batches(
    forward: Engine, pixels: Sequence[np.ndarray], inference_threads: int
) -> tuple[np.ndarray, float]:
    """Run batches in inference threads; return the embeddings in order, and the seconds."""
    with ThreadPoolExecutor(
        inference_threads,
        initializer=torch.set_num_threads,
        initargs=(forward.settings.threads,),
    ) as pool:
        # The memory that a thread allocates for its first batch is not part of its speed.
        with interrupts_held():
            first = pool.map(forward, [pixels[0]] * inference_threads)
        list(first)
        started = time.perf_counter()
        with interrupts_held():
            found = pool.map(forward, pixels)
        return np.concatenate(list(found)), time.perf_counter() - started
