"""How many images at once, in how many threads, are fastest for eager torch on this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from headstrip.embed.engines import compile_encoder
from headstrip.interrupting import interrupts_held

if TYPE_CHECKING:
    from headstrip.embed.engines import Forward
    from headstrip.encoder import Encoder

BATCH_SIZES = (1, 2, 4, 8, 16, 32)

_BETTER = 1.05

_DECODING = 0.003
"""Seconds of a core that a photograph of 500 x 375 pixels takes until it is 224 x 224."""


class Layout(NamedTuple):
    """How the work is laid out.

    Attributes:
        batch_size: Images of a batch.
        lanes: Batches in the network at once.
        threads: Threads of the processor for each of them.
        channels_last: Whether the channels are last in memory.
    """

    batch_size: int
    lanes: int
    threads: int
    channels_last: bool


def best_batch(encoder: Encoder, *, seconds: float = 3.0, cores: int | None = None) -> Layout:
    """Find the fastest layout for eager torch in fp32 on the CPU, by a short measurement.

    It begins with batches of 4, one thread each, channels last, and tries other sizes, each with a
    thread for every batch and with all threads for one, and the channels first. What another one
    gains must be 5 %, and what would not be done in the time that is left is not tried: a network
    that is slow on this machine has the first. Others that use the processor at the same time make
    it a guess.

    Args:
        encoder: An encoder of images, with a preprocessing, on the CPU.
        seconds: How long to try, about.
        cores: Threads of the processor to use; None for all that this process may.

    Returns:
        The layout; ``lanes * threads`` is ``cores``.

    Raises:
        PreprocessingError: The encoder takes clips, or has no preprocessing.

    Example:
        >>> best_batch(encoder)  # doctest: +SKIP
        Layout(batch_size=4, lanes=2, threads=1, channels_last=True)
    """
    cores = cores or usable_cores()
    best, until = Layout(4, cores, 1, True), time.perf_counter() + seconds
    if _ROUNDS * best.batch_size * seconds_an_image(encoder) > seconds:
        return best
    rate = images_per_second(encoder, best)
    first, shortest = best, _seconds_each(best, rate)
    for change in _others(cores):
        layout = best._replace(**change)  # type: ignore[arg-type]
        images = _ROUNDS * layout.batch_size * layout.lanes
        if layout in (first, best) or time.perf_counter() + images / rate > until:
            continue
        found = images_per_second(encoder, layout)
        if _BETTER * _seconds_each(layout, found) < shortest:
            best, rate, shortest = layout, found, _seconds_each(layout, found)
    return best


def _seconds_each(layout: Layout, rate: float) -> float:
    """Return what an image takes in a run, whose decoders take a core from the network at times.

    Threads that share a batch all wait for the one whose core is taken.
    """
    return 1 / rate + _DECODING / layout.lanes


def images_per_second(encoder: Encoder, layout: Layout) -> float:
    """Run a layout over blank images, two batches a lane after a first one."""
    forward = compile_encoder(
        encoder, batch_size=layout.batch_size, threads=layout.threads,
        channels_last=layout.channels_last,
    )  # fmt: skip
    images = (_ROUNDS - 1) * layout.batch_size * layout.lanes
    return images / _seconds(forward, layout)


def seconds_an_image(encoder: Encoder) -> float:
    """Return how long one image takes in one thread, about: it is the first, and no other."""
    forward = compile_encoder(encoder, batch_size=1, threads=1)
    pixels, before = np.zeros(forward.pixels_shape, np.uint8), torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.perf_counter()
    forward(pixels)
    torch.set_num_threads(before)
    return time.perf_counter() - started


def usable_cores() -> int:
    """Return how many of the machine's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_ROUNDS = 3


def _others(cores: int) -> Iterator[dict[str, int | bool]]:
    """Yield what is tried, that which gains most often first."""
    # Threads that share a batch wait for each other, and read the parameters once.
    threads = [count for count in (cores, 1, 2) if cores % count == 0]
    for size in (4, 8, 16, 2, 1, 32):
        for count in dict.fromkeys(threads):
            yield {"batch_size": size, "lanes": cores // count, "threads": count}
    yield {"channels_last": False}


def _seconds(forward: Forward, layout: Layout) -> float:
    """Return how long all lanes take for their batches after the first."""
    pixels = np.zeros(forward.pixels_shape, np.uint8)
    started: list[float] = []
    begun = threading.Barrier(layout.lanes, lambda: started.append(time.perf_counter()))

    def lane() -> None:
        torch.set_num_threads(layout.threads)
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
        with ThreadPoolExecutor(layout.lanes) as pool:
            try:
                with interrupts_held():
                    lanes = [pool.submit(lane) for _ in range(layout.lanes)]
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
