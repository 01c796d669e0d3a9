"""Measures which engine and which batches are fastest on this machine.

Only ``--calibrate`` and the engine or precision "auto" measure: a plain run has the fixed rule of
``choose_parallelism``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from headstrip.embed.engines.compile import compile_encoder
from headstrip.embed.engines.engine import PRECISIONS, Engine, Precision, cosines
from headstrip.embed.engines.registry import engine_names, load_engine
from headstrip.embed.parallelism import CPU_BATCH
from headstrip.embed.parallelism import cores as usable_cores
from headstrip.errors import HeadstripError, PreprocessingError, one_line
from headstrip.system.interrupts import interrupts_held
from headstrip.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_LOGGER = logging.getLogger("headstrip.embed")

TOLERANCE = 0.999
"""Smallest cosine to the reference that each embedding of a chosen engine must have."""

LEFT_OUT = "Compiling it takes longer than it could save on these images."
"""Why an engine was not measured for a number of images."""

BATCH_SIZES = (16, 8, 4, 32, 2, 1)
"""Batch sizes to measure; those that are fastest most often come first."""

_COMPILE_SECONDS = 30.0
"""How long inductor compiles a network; the other engines take a tenth of it."""

_MEASURING_SHARE = 0.1
"""Share of a run's time that measuring a faster way may take."""

_SLOW = 0.25
"""Below this share of the fastest rate, one batch is enough to call an engine slower."""

_MIN_GAIN = 1.05
"""How much faster other batches must be than the best so far."""

_BATCHES_PER_THREAD = 2

_DECODE_SECONDS = 0.003
"""CPU time to decode a photograph of 500 x 375 pixels and resize it to 224 x 224."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An engine in one precision, on this machine.

    Attributes:
        engine: Name of the engine.
        precision: "fp32" or "bf16".
        images_per_second: With all inference threads busy.
        cosine_min: Smallest cosine of an embedding to that of eager torch in fp32.
        cosine_mean: Mean of these cosines.
        seconds_to_compile: Time until the first batch was through.
        unavailable: Why the engine cannot be used, or None; the numbers are NaN then.
    """

    engine: str
    precision: Precision
    images_per_second: float = math.nan
    cosine_min: float = math.nan
    cosine_mean: float = math.nan
    seconds_to_compile: float = math.nan
    unavailable: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as plain JSON values, None for NaN."""
        fields = asdict(self).items()
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in fields
        }


def calibrate(
    encoder: Encoder,
    pixels: Sequence[np.ndarray],
    engines: Sequence[str] | None = None,
    precisions: Sequence[Precision] | None = None,
    *,
    threads: int = 1,
    lanes: int = 1,
    channels_last: bool = True,
    images: int | None = None,
) -> list[Measured]:
    """Run the same batches through engines, and compare with eager torch in fp32.

    The reference is the network in the memory format of the encoder, one batch at a time.

    Args:
        encoder: An encoder of images, with a preprocessing.
        pixels: Batches, uint8 arrays of one shape (N, H, W, C).
        engines: The engines; None for all.
        precisions: The precisions; None for all.
        threads: CPU threads for each batch.
        lanes: Inference threads: batches at once.
        channels_last: As in ``compile_encoder``.
        images: How many images the fastest will embed. Measurements that cost more than they can
            save on them are left out: ``torch.compile`` unless they take minutes, and all batches
            but the first of an engine that is less than a quarter as fast as another. None measures
            everything.

    Returns:
        A measurement for each engine in each precision, in that order. For an engine that is not
        installed, was left out, or does not support the network, it states the reason.

    Raises:
        PreprocessingError: There are no batches, or they differ in shape; the encoder takes clips,
            or has no preprocessing.

    Example:
        >>> choose_engine(calibrate(encoder, batches)).engine  # doctest: +SKIP
        'openvino'
    """
    if not pixels or len({batch.shape for batch in pixels}) != 1:
        raise PreprocessingError(
            "Engines are compared on batches of one shape. Pass one or more batches of equal shape."
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        settings: dict[str, Any] = {"batch_size": len(pixels[0]), "threads": threads}
        forward = compile_encoder(encoder, channels_last=False, **settings)
        reference = np.concatenate([forward(batch) for batch in pixels])
        settings["channels_last"] = channels_last
        pairs = [(e, p) for e in engines or engine_names() for p in precisions or PRECISIONS]
        found: dict[tuple[str, Precision], Measured] = {}
        slow = {engine for engine, _ in pairs if _is_slow_to_prepare(engine)}
        # Engines that are slow to prepare come last, when there is a rate to compare with.
        for engine, precision in sorted(pairs, key=lambda pair: pair[0] in slow):
            rates = [one.images_per_second for one in found.values() if not one.unavailable]
            rate = max(rates, default=0.0)
            if images is not None and engine in slow and rate and not is_worth(images, rate):
                found[engine, precision] = Measured(engine, precision, unavailable=LEFT_OUT)
                continue
            found[engine, precision] = _measure(
                encoder,
                engine,
                precision,
                settings,
                pixels,
                reference,
                lanes,
                enough=0.0 if images is None else _SLOW * rate,
            )
        return [found[pair] for pair in pairs]
    finally:
        torch.set_num_threads(before)


def _is_slow_to_prepare(engine: str) -> bool:
    try:
        return load_engine(engine).slow_to_prepare
    except HeadstripError:
        # Measuring it gives the reason.
        return False


def is_worth(images: int, rate: float) -> bool:
    """Whether a number of images, at this rate, takes so long that compiling can save time."""
    return _MEASURING_SHARE * images / rate > _COMPILE_SECONDS


def choose_engine(measured: Sequence[Measured], tolerance: float = TOLERANCE) -> Measured:
    """Return the fastest engine whose every embedding is within the tolerance.

    Args:
        measured: What ``calibrate`` returned; the first of equally fast ones is chosen.
        tolerance: Smallest cosine to the reference.

    Raises:
        HeadstripError: No engine is within the tolerance.
    """
    # The comparison is False for NaN.
    fit = [one for one in measured if not one.unavailable and one.cosine_min >= tolerance]
    if not fit:
        raise HeadstripError(
            f"No engine gives embeddings whose cosine to the reference is {tolerance} or more. "
            "Use the engine 'torch' with precision 'fp32', which is the reference."
        )
    return max(fit, key=lambda one: one.images_per_second)


def _measure(
    encoder: Encoder,
    engine: str,
    precision: Precision,
    settings: dict[str, Any],
    pixels: Sequence[np.ndarray],
    reference: np.ndarray,
    inference_threads: int,
    enough: float,
) -> Measured:
    """Measure one engine: on all batches, or on the first if its rate is below ``enough``."""
    started = time.perf_counter()
    try:
        forward = compile_encoder(encoder, engine=engine, precision=precision, **settings)
        ready = time.perf_counter()
        embeddings = forward(pixels[0])
        compiled = time.perf_counter()
        rate = inference_threads * len(embeddings) / (compiled - ready)
        if rate >= enough:
            embeddings, seconds = _run(forward, pixels, inference_threads, settings["threads"])
            rate = len(reference) / seconds
    except PreprocessingError:
        raise
    except HeadstripError as error:
        return Measured(engine, precision, unavailable=one_line(error))
    except Exception as error:
        # An engine raises errors of any type for a network that it does not support.
        if is_out_of_memory(error):
            raise
        _LOGGER.debug("the engine %s in %s failed", engine, precision, exc_info=True)
        return Measured(engine, precision, unavailable=one_line(error))
    found = cosines(embeddings, reference[: len(embeddings)])
    return Measured(
        engine, precision, rate, float(found.min()), float(found.mean()), compiled - started
    )


def _run(
    forward: Engine, pixels: Sequence[np.ndarray], inference_threads: int, threads: int
) -> tuple[np.ndarray, float]:
    """Run batches in inference threads; return the embeddings in order, and the seconds."""
    with ThreadPoolExecutor(
        inference_threads, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        # The memory that a thread allocates for its first batch is not part of its speed.
        with interrupts_held():
            first = pool.map(forward, [pixels[0]] * inference_threads)
        list(first)
        started = time.perf_counter()
        with interrupts_held():
            found = pool.map(forward, pixels)
        return np.concatenate(list(found)), time.perf_counter() - started


class Batches(NamedTuple):
    """How batches go through the network.

    Attributes:
        batch_size: Images of a batch.
        inference_threads: Batches in the network at once.
        threads: CPU threads for each batch.
    """

    batch_size: int
    inference_threads: int
    threads: int


def best_batch(encoder: Encoder, *, seconds: float = 3.0, cores: int | None = None) -> Batches:
    """Measure for a short time which batches are fastest, for eager torch in fp32 on the CPU.

    It starts with the fixed rule, and tries other sizes, each with one thread for every batch and
    with all threads for one. Another choice must be 5 % faster, and one that would not finish in
    time is not tried: a network that is slow on this machine keeps the fixed rule. Other programs
    that use the processor at the same time make the result unreliable.

    Args:
        encoder: An encoder of images, with a preprocessing, on the CPU.
        seconds: How long to measure, about.
        cores: CPU threads to use; None for all that this process may use.

    Returns:
        The batches; ``inference_threads * threads`` is ``cores``.

    Raises:
        PreprocessingError: The encoder takes clips, or has no preprocessing.

    Example:
        >>> best_batch(encoder)  # doctest: +SKIP
        Batches(batch_size=16, inference_threads=2, threads=1)
    """
    cores = cores or usable_cores()
    best, until = Batches(CPU_BATCH, cores, 1), time.perf_counter() + seconds
    rounds = 1 + _BATCHES_PER_THREAD
    if rounds * best.batch_size / images_per_second(encoder, Batches(1, 1, 1)) > seconds:
        return best
    rate = images_per_second(encoder, best)
    fixed, shortest = best, _seconds_per_image(best, rate)
    for other in _alternatives(cores):
        images = rounds * other.batch_size * other.inference_threads
        if other == fixed or time.perf_counter() + images / rate > until:
            continue
        found = images_per_second(encoder, other)
        if _MIN_GAIN * _seconds_per_image(other, found) < shortest:
            best, rate, shortest = other, found, _seconds_per_image(other, found)
    return best


def images_per_second(encoder: Encoder, batches: Batches) -> float:
    """Run blank images: two batches per inference thread, after a first one."""
    forward = compile_encoder(encoder, batch_size=batches.batch_size, threads=batches.threads)
    pixels = [np.zeros(forward.pixels_shape, np.uint8)] * (
        _BATCHES_PER_THREAD * batches.inference_threads
    )
    before = torch.get_num_threads()
    try:
        embeddings, seconds = _run(forward, pixels, batches.inference_threads, batches.threads)
    finally:
        torch.set_num_threads(before)
    return len(embeddings) / seconds


def _alternatives(cores: int) -> Iterator[Batches]:
    """Yield batches of all sizes, with all cores, one and two threads for each batch."""
    threads = [count for count in (cores, 1, 2) if cores % count == 0]
    for size in BATCH_SIZES:
        for count in dict.fromkeys(threads):
            yield Batches(size, cores // count, count)


def _seconds_per_image(batches: Batches, rate: float) -> float:
    """Return the time of an image in a run, whose workers take a core from the network at times.

    Threads that share a batch all wait for the one whose core is taken.
    """
    return 1 / rate + _DECODE_SECONDS / batches.inference_threads
