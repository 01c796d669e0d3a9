"""Which engine is fastest on this machine, and how far its embeddings are from the reference."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstrip.embed.engines.compile import compile_encoder
from headstrip.embed.engines.engine import PRECISIONS, Engine, Precision, cosines
from headstrip.embed.engines.registry import engine_names, load_engine
from headstrip.errors import HeadstripError, PreprocessingError, one_line
from headstrip.system.interrupts import interrupts_held
from headstrip.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

TOLERANCE = 0.999
"""Cosine to the reference that each embedding of an engine that is chosen automatically has."""

LEFT_OUT = "Compiling it takes longer than it could save on these images."
"""Why an engine was not measured for a number of images."""

_SECONDS_TO_COMPILE = 30.0
"""What inductor takes for a network; the others take a tenth."""

_SAVES = 0.1
"""Share of a run's time that may go into finding out whether it could be shorter."""

_SLOW = 0.25
"""Share of the fastest rate below which a first batch is enough to know an engine as slower."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An engine in one precision, on this machine.

    Attributes:
        engine: Name of the engine.
        precision: "fp32" or "bf16".
        images_per_second: With all lanes at work.
        cosine_min: Smallest cosine of an embedding to that of eager torch in fp32.
        cosine_mean: Mean of these.
        seconds_to_compile: Time until the first batch could go through.
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

    The reference is the network as the encoder has it: channels first, one batch at a time.

    Args:
        encoder: An encoder of images, with a preprocessing.
        pixels: Batches, uint8 arrays of one shape (N, H, W, C).
        engines: Which; None for all.
        precisions: Which; None for all.
        threads: Threads of the processor for each batch.
        lanes: Batches at once.
        channels_last: As in ``compile_encoder``.
        images: How many are to be embedded by the fastest. What measuring would cost more than it
            can save on them is left out then: ``torch.compile`` for fewer images than take minutes,
            and, of an engine that is a quarter as fast as another, all batches but the first. None
            measures all of all.

    Returns:
        A measurement for each engine in each precision, in that order. One that is missing, left
        out, or does not know the network, has its reason.

    Raises:
        PreprocessingError: There is no batch, or they differ in shape; the encoder takes clips, or
            has no preprocessing.

    Example:
        >>> choose_engine(calibrate(encoder, batches)).engine  # doctest: +SKIP
        'openvino'
    """
    if not pixels or len({batch.shape for batch in pixels}) != 1:
        raise PreprocessingError(
            "Engines are compared on batches of one shape. Pass one batch or more, all alike."
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layout: dict[str, Any] = {"batch_size": len(pixels[0]), "threads": threads}
        forward = compile_encoder(encoder, channels_last=False, **layout)
        reference = np.concatenate([forward(batch) for batch in pixels])
        layout["channels_last"] = channels_last
        asked = [(e, p) for e in engines or engine_names() for p in precisions or PRECISIONS]
        found: dict[tuple[str, Precision], Measured] = {}
        slow = {engine for engine, _ in asked if _is_slow_to_prepare(engine)}
        # Engines that are slow to prepare come last, when there is a rate to compare with.
        for engine, precision in sorted(asked, key=lambda pair: pair[0] in slow):
            rate = max((one.images_per_second for one in found.values() if not one.unavailable),
                       default=0.0)  # fmt: skip
            if images is not None and engine in slow and rate and not is_worth(images, rate):
                found[engine, precision] = Measured(engine, precision, unavailable=LEFT_OUT)
                continue
            found[engine, precision] = _measured(
                encoder, engine, precision, layout, pixels, reference, lanes,
                enough=0.0 if images is None else _SLOW * rate,
            )  # fmt: skip
        return [found[pair] for pair in asked]
    finally:
        torch.set_num_threads(before)


def _is_slow_to_prepare(engine: str) -> bool:
    try:
        return load_engine(engine).slow_to_prepare
    except HeadstripError:
        # Measuring it gives the reason.
        return False


def is_worth(images: int, rate: float) -> bool:
    """Whether so many images, at this rate, take so long that compiling for them can pay."""
    return _SAVES * images / rate > _SECONDS_TO_COMPILE


def choose_engine(measured: Sequence[Measured], tolerance: float = TOLERANCE) -> Measured:
    """Return the fastest whose every embedding is within the tolerance; of equals the first.

    Args:
        measured: What ``calibrate`` returned.
        tolerance: Smallest cosine to the reference.

    Raises:
        HeadstripError: There is none.
    """
    # NaN is at least nothing.
    fit = [one for one in measured if not one.unavailable and one.cosine_min >= tolerance]
    if not fit:
        raise HeadstripError(
            f"No engine gives embeddings whose cosine to the reference is {tolerance} or more. "
            "Use the engine 'torch' with precision 'fp32', which is the reference."
        )
    return max(fit, key=lambda one: one.images_per_second)


def _measured(
    encoder: Encoder, engine: str, precision: Precision, layout: dict[str, Any],
    pixels: Sequence[np.ndarray], reference: np.ndarray, lanes: int, enough: float,
) -> Measured:  # fmt: skip
    started = time.perf_counter()
    try:
        forward = compile_encoder(encoder, engine=engine, precision=precision, **layout)
        ready = time.perf_counter()
        first = forward(pixels[0])
        compiled = time.perf_counter()
        rate = lanes * len(first) / (compiled - ready)
        embeddings = first
        if rate >= enough:
            embeddings, seconds = _run(forward, pixels, lanes, layout["threads"])
            rate = len(reference) / seconds
    except PreprocessingError:
        raise
    except HeadstripError as error:
        return Measured(engine, precision, unavailable=one_line(error))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Measured(engine, precision, unavailable=one_line(error))
    found = cosines(embeddings, reference[: len(embeddings)])
    return Measured(
        engine, precision, rate, float(found.min()), float(found.mean()), compiled - started
    )


def _run(
    forward: Engine, pixels: Sequence[np.ndarray], lanes: int, threads: int
) -> tuple[np.ndarray, float]:
    """Return the embeddings in the order of the batches, and how long it took."""
    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        # What a thread sets aside at its first batch is not part of its speed.
        with interrupts_held():
            first = pool.map(forward, [pixels[0]] * lanes)
        list(first)
        started = time.perf_counter()
        with interrupts_held():
            found = pool.map(forward, pixels)
        return np.concatenate(list(found)), time.perf_counter() - started
