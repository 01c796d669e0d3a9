"""How many images at once, in how many threads, are fastest for eager torch on this machine.

Only ``--calibrate`` measures it: a plain run has a fixed rule, ``layout.lay_out``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from headstrip.embed.engines.compile import compile_encoder
from headstrip.embed.parallelism import CPU_BATCH
from headstrip.embed.parallelism import cores as usable_cores
from headstrip.system.interrupts import interrupts_held

if TYPE_CHECKING:
    from headstrip.embed.engines.engine import Engine
    from headstrip.encoder.encoder import Encoder

BATCH_SIZES = (16, 8, 4, 32, 2, 1)
"""What is tried, that which gains most often first."""

_BETTER = 1.05

_DECODING = 0.003
"""Seconds of a core that a photograph of 500 x 375 pixels takes until it is 224 x 224."""


class Batches(NamedTuple):
    """How batches go through the network.

    Attributes:
        batch_size: Images of a batch.
        lanes: Batches in the network at once.
        threads: Threads of the processor for each of them.
    """

    batch_size: int
    lanes: int
    threads: int


def best_batch(encoder: Encoder, *, seconds: float = 3.0, cores: int | None = None) -> Batches:
    """Find the fastest batches for eager torch in fp32 on the CPU, by a short measurement.

    It begins with what a plain run has, and tries other sizes, each with a thread for every batch
    and with all threads for one. What another one gains must be 5 %, and what would not be done in
    the time that is left is not tried: a network that is slow on this machine has the first. Others
    that use the processor at the same time make it a guess.

    Args:
        encoder: An encoder of images, with a preprocessing, on the CPU.
        seconds: How long to try, about.
        cores: Threads of the processor to use; None for all that this process may.

    Returns:
        The batches; ``lanes * threads`` is ``cores``.

    Raises:
        PreprocessingError: The encoder takes clips, or has no preprocessing.

    Example:
        >>> best_batch(encoder)  # doctest: +SKIP
        Batches(batch_size=16, lanes=2, threads=1)
    """
    cores = cores or usable_cores()
    best, until = Batches(CPU_BATCH, cores, 1), time.perf_counter() + seconds
    if _ROUNDS * best.batch_size * seconds_an_image(encoder) > seconds:
        return best
    rate = images_per_second(encoder, best)
    first, shortest = best, _seconds_each(best, rate)
    for other in _others(cores):
        images = _ROUNDS * other.batch_size * other.lanes
        if other == first or time.perf_counter() + images / rate > until:
            continue
        found = images_per_second(encoder, other)
        if _BETTER * _seconds_each(other, found) < shortest:
            best, rate, shortest = other, found, _seconds_each(other, found)
    return best


def _seconds_each(batches: Batches, rate: float) -> float:
    """Return what an image takes in a run, whose decoders take a core from the network at times.

    Threads that share a batch all wait for the one whose core is taken.
    """
    return 1 / rate + _DECODING / batches.lanes


def images_per_second(encoder: Encoder, batches: Batches) -> float:
    """Run blank images, two batches a lane after a first one."""
    forward = compile_encoder(encoder, batch_size=batches.batch_size, threads=batches.threads)
    images = (_ROUNDS - 1) * batches.batch_size * batches.lanes
    return images / _seconds(forward, batches)


def seconds_an_image(encoder: Encoder) -> float:
    """Return how long one image takes in one thread, about: it is the first, and no other."""
    forward = compile_encoder(encoder, batch_size=1, threads=1)
    pixels, before = np.zeros(forward.pixels_shape, np.uint8), torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.perf_counter()
    forward(pixels)
    torch.set_num_threads(before)
    return time.perf_counter() - started


_ROUNDS = 3


def _others(cores: int) -> Iterator[Batches]:
    # Threads that share a batch wait for each other, and read the parameters once.
    threads = [count for count in (cores, 1, 2) if cores % count == 0]
    for size in BATCH_SIZES:
        for count in dict.fromkeys(threads):
            yield Batches(size, cores // count, count)


def _seconds(forward: Engine, batches: Batches) -> float:
    """Return how long all lanes take for their batches after the first."""
    pixels = np.zeros(forward.pixels_shape, np.uint8)
    started: list[float] = []
    begun = threading.Barrier(batches.lanes, lambda: started.append(time.perf_counter()))

    def lane() -> None:
        torch.set_num_threads(batches.threads)
        try:
            forward(pixels)
        except BaseException:
            begun.abort()
            raise
        begun.wait()
        for _ in range(_ROUNDS - 1):
            forward(pixels)

    before = torch.get_num_threads()
    try:
        # All lanes, or they wait for each other for ever.
        with ThreadPoolExecutor(batches.lanes) as pool:
            try:
                with interrupts_held():
                    lanes = [pool.submit(lane) for _ in range(batches.lanes)]
            except RuntimeError:
                begun.abort()
                raise
            wait(lanes)
        ended = time.perf_counter()
        _raise_first([one.exception() for one in lanes])
        return ended - started[0]
    finally:
        torch.set_num_threads(before)


def _raise_first(errors: Sequence[BaseException | None]) -> None:
    """Raise what a lane raised, and not that another waited for it in vain."""
    raised = [error for error in errors if error is not None]
    for error in sorted(raised, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
        raise error
