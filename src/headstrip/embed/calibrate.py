"""Measures which engine and precision is fastest on this machine.

``measure_engines`` does it for ``--calibrate``, and ``resolve_settings`` for the engine or the
precision "auto". A plain run measures nothing: it has the fixed rule of ``choose_parallelism``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from headstrip.embed.calibrate_batches import best_batch, run_batches
from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.engines.engine import PRECISIONS, Engine, Precision, cosines
from headstrip.embed.engines.make import check_takes_images, make_engine, torch_threads
from headstrip.embed.engines.registry import check_engine, engine_names, load_engine
from headstrip.embed.limits import check_addresses, check_limits
from headstrip.embed.listing import Listing, list_items
from headstrip.embed.parallelism import Parallelism, choose_parallelism
from headstrip.embed.settings import AUTO, EmbedOptions, EmbedSettings
from headstrip.embed.sources import Reader, Source
from headstrip.errors import HeadstripError, OptionError, PreprocessingError, one_line
from headstrip.system.arguments import shown
from headstrip.system.out_of_memory import OutOfMemoryError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_LOGGER = logging.getLogger("headstrip.embed")

TOLERANCE = 0.999
"""Smallest cosine to the reference that each embedding of a chosen engine must have."""

LEFT_OUT = "Compiling it takes longer than it could save on these images."
"""Why an engine was not measured for a number of images."""

_SAMPLE = 32
"""Images of the source that engines are compared on, at least."""

_COMPILE_SECONDS = 30.0
"""How long inductor compiles a network; the other engines take a tenth of it."""

_MEASURING_SHARE = 0.1
"""Share of a run's time that measuring a faster way may take."""

_SLOW = 0.25
"""Below this share of the fastest rate, one batch is enough to call an engine slower."""


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
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


def resolve_settings(
    encoder: Encoder,
    listing: Listing,
    reader: Reader,
    settings: EmbedSettings,
    options: EmbedOptions,
    notify: Callable[[str], None],
) -> EmbedSettings:
    """Choose the engine and the precision if they are "auto", and a batch that fits on a GPU.

    Args:
        encoder: The encoder.
        listing: The images.
        reader: Reads their bytes.
        settings: The settings of the caller, or of the file that is updated.
        options: The options of the run.
        notify: Called with the engine and the precision that were chosen.

    Returns:
        Settings in which nothing is "auto".

    Raises:
        HeadstripError: No engine is within the tolerance.
    """
    if encoder.device.type != "cpu" and settings.batch_size is None:
        settings = fitting(encoder, settings)
    if AUTO not in (settings.engine, settings.precision):
        return settings
    best = choose_engine(
        _calibrate_on(encoder, listing, reader, settings, options, images=len(listing))
    )
    notify(
        f"headstrip chose the engine {best.engine} in {best.precision}, the fastest here within "
        f"the tolerance: {best.images_per_second:.1f} images/s, cosine {best.cosine_min:.6f} or "
        "more to eager torch in fp32."
    )
    return replace(settings, engine=best.engine, precision=best.precision)


def fitting(encoder: Encoder, settings: EmbedSettings) -> EmbedSettings:
    """Halve the batch until it fits in the memory of the device.

    Args:
        encoder: The encoder.
        settings: The settings; the batch of the fixed rule comes first if ``batch_size`` is None.

    Returns:
        The settings with a batch size that went through the network once.

    Raises:
        OutOfMemoryError: Not even one image fits.
    """
    running = choose_parallelism(settings, device=encoder.device.type)
    size = running.batch_size
    while True:
        try:
            with encoder.evaluating():
                forward = make_engine(encoder, replace(running.settings, batch_size=size))
                forward(np.zeros(forward.pixels_shape, np.uint8))
            return replace(settings, batch_size=size)
        except OutOfMemoryError:
            if size == 1:
                raise
            size //= 2


def measure_engines(
    encoder: Encoder, source: Source, settings: EmbedSettings, options: EmbedOptions | None = None
) -> tuple[EmbedSettings, list[Measured]]:
    """Measure which batches are fastest, and then each engine and precision, on images of a source.

    Args:
        encoder: The encoder.
        source: The source of the images, which are taken evenly.
        settings: An engine or a precision, to measure only that one; a batch size or threads, to
            measure with them and to try no others; a decode mode, to measure on images that are
            decoded in it.
        options: As in ``embed_source``; ``inference_threads``, to measure with that many.

    Returns:
        The settings with the batch size and threads of the measurements, and the measurements,
        compared with eager torch in fp32.

    Raises:
        HeadstripError: As ``embed_source``.
        ValueError: No engine has the name.
    """
    options = options or EmbedOptions()
    check_engine(settings.engine)
    check_limits(encoder, settings, options)
    check_addresses(settings, options)
    listing = list_items(source.describe(), source.items())
    if encoder.device.type == "cpu" and settings.batch_size is settings.threads is None:
        settings = settings.over(best_batch(encoder, inference_threads=options.inference_threads))
    return settings, _calibrate_on(encoder, listing, source.reader(), settings, options)


def _calibrate_on(
    encoder: Encoder,
    listing: Listing,
    reader: Reader,
    settings: EmbedSettings,
    options: EmbedOptions,
    images: int | None = None,
) -> list[Measured]:
    """Calibrate on images of a listing, in the engine and the precision if they are chosen."""
    running = choose_parallelism(
        replace(settings, engine=None, precision=None), options, device=encoder.device.type
    )
    return calibrate(
        encoder,
        _sample(encoder, listing, reader, running, options),
        [name for name in engine_names() if settings.engine in (AUTO, None, name)],
        [one for one in PRECISIONS if settings.precision in (AUTO, None, one)],
        threads=running.threads,
        inference_threads=running.inference_threads,
        channels_last=bool(running.settings.channels_last),
        images=images,
    )


def _sample(
    encoder: Encoder,
    listing: Listing,
    reader: Reader,
    running: Parallelism,
    options: EmbedOptions,
) -> list[np.ndarray]:
    """Decode images of a listing, evenly taken, into whole batches."""
    preprocessing, size = encoder.preprocessing, running.batch_size
    # `check_limits` needs it too, and runs before.
    assert preprocessing is not None
    count = -(-_SAMPLE // size) * size
    numbers = np.linspace(0, len(listing) - 1, count).astype(int)
    items = [listing.slice(number, number + 1)[0] for number in map(int, numbers)]
    batches = []
    with DecodePool(
        reader,
        preprocessing,
        batch_size=size,
        workers=0 if options.workers == 0 else 1,
        slots=1,
        timeout=options.timeout,
        mode="fast" if running.settings.decode_mode == "fast" else "exact",
    ) as pool:
        for start in range(0, count, size):
            future = pool.submit(items[start : start + size])
            batches.append(future.result().pixels.copy())
            pool.release(future)
    return batches


def calibrate(
    encoder: Encoder,
    pixels: Sequence[np.ndarray],
    engines: Sequence[str] | None = None,
    precisions: Sequence[Precision] | None = None,
    *,
    threads: int = 1,
    inference_threads: int = 1,
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
        inference_threads: How many batches are in the network at once, each in its own thread.
        channels_last: Whether "torch" and "compile" have the channels last in memory.
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
        OptionError: An argument has a wrong type.
        ValueError: No engine has one of the names, or a number or a precision is not valid.

    Example:
        >>> choose_engine(calibrate(encoder, batches)).engine  # doctest: +SKIP
        'openvino'
    """
    check_takes_images(encoder)
    _check_names("engines", engines, "torch")
    _check_names("precisions", precisions, "fp32")
    if not _are_arrays(pixels) or len({batch.shape for batch in pixels}) != 1:
        raise PreprocessingError(
            "Engines are compared on batches of one shape. Pass a list of one or more uint8 arrays "
            "(N, H, W, C) of equal shape."
        )
    engines, precisions = engines or engine_names(), precisions or PRECISIONS
    counts = {"threads": threads, "inference_threads": inference_threads}
    _check_values(precisions, counts if images is None else {**counts, "images": images})
    classes: dict[str, type[Engine]] = {}
    found: dict[tuple[str, Precision], Measured] = {}
    for engine in engines:
        try:
            classes[engine] = load_engine(engine)
        except HeadstripError as error:
            for precision in precisions:
                found[engine, precision] = Measured(engine, precision, unavailable=one_line(error))
    settings = EmbedSettings(
        engine="torch",
        precision="fp32",
        batch_size=len(pixels[0]),
        threads=threads,
        channels_last=False,
    )
    with torch_threads(threads):
        forward = make_engine(encoder, settings)
        reference = np.concatenate([forward(batch) for batch in pixels])
        # Engines that are slow to prepare come last, when there is a rate to compare with.
        for engine in sorted(classes, key=lambda name: classes[name].slow_to_prepare):
            for precision in precisions:
                rates = [one.images_per_second for one in found.values() if not one.unavailable]
                rate = max(rates, default=0.0)
                is_slow = classes[engine].slow_to_prepare
                if images is not None and is_slow and rate and not is_worth_compiling(images, rate):
                    found[engine, precision] = Measured(engine, precision, unavailable=LEFT_OUT)
                    continue
                found[engine, precision] = _measure(
                    encoder,
                    classes[engine],
                    replace(
                        settings, engine=engine, precision=precision, channels_last=channels_last
                    ),
                    pixels,
                    reference,
                    inference_threads,
                    enough=0.0 if images is None else _SLOW * rate,
                )
    return [found[engine, precision] for engine in engines for precision in precisions]


def _check_names(option: str, names: Any, example: str) -> None:
    if names is not None and (isinstance(names, str) or not isinstance(names, Iterable)):
        raise OptionError(
            f"{option} must be a list of names or None, got {shown(names)}. Pass for example "
            f"[{example!r}]."
        )


def _are_arrays(pixels: Any) -> bool:
    is_list = isinstance(pixels, Sequence) and not isinstance(pixels, str) and len(pixels) > 0
    return is_list and all(isinstance(batch, np.ndarray) for batch in pixels)


def _check_values(precisions: Sequence[str], counts: Mapping[str, object]) -> None:
    """Refuse what is not valid for any engine, and so is not the fault of one.

    Raises:
        ValueError: A precision cannot be measured, or a number is not an integer of 1 or more.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision={precision!r} cannot be measured. Pass one of "
                f"{', '.join(map(repr, PRECISIONS))}."
            )
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(
                f"{name}={count!r} must be an integer of 1 or more. Pass one, such as {name}=1."
            )


def is_worth_compiling(images: int, rate: float) -> bool:
    """Whether a number of images, at this rate, takes so long that compiling can save time."""
    return _MEASURING_SHARE * images / rate > _COMPILE_SECONDS


def choose_engine(measured: Sequence[Measured], tolerance: float = TOLERANCE) -> Measured:
    """Return the fastest engine whose every embedding is within the tolerance.

    Args:
        measured: What ``calibrate`` returned; the first of equally fast ones is chosen.
        tolerance: Smallest cosine to the reference.

    Raises:
        HeadstripError: No engine is within the tolerance, or none could be run.
        OptionError: ``measured`` or ``tolerance`` is something else.

    Example:
        >>> choose_engine(calibrate(encoder, batches)).engine  # doctest: +SKIP
        'openvino'
    """
    is_list = isinstance(measured, Sequence)
    if not is_list or not all(isinstance(one, Measured) for one in measured):
        raise OptionError(
            f"measured must be the list that calibrate returns, got {shown(measured)}. Pass "
            "calibrate(encoder, batches)."
        )
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise OptionError(
            f"tolerance must be a number, got {shown(tolerance)}. Pass one such as {TOLERANCE}."
        )
    if all(one.unavailable for one in measured):
        reasons = "".join(
            f"{one.engine} in {one.precision}: {str(one.unavailable).rstrip('.')}. "
            for one in measured
        )
        raise HeadstripError(
            f"No engine could be run. {reasons}Measure the engine 'torch' with precision 'fp32' "
            "too, which is the reference."
        )
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
    engine_class: type[Engine],
    settings: EmbedSettings,
    pixels: Sequence[np.ndarray],
    reference: np.ndarray,
    inference_threads: int,
    enough: float,
) -> Measured:
    """Measure one engine: on all batches, or on the first if its rate is below ``enough``."""
    engine, precision = str(settings.engine), cast("Precision", settings.precision)
    started = time.perf_counter()
    try:
        forward = make_engine(encoder, settings, engine_class)
        ready = time.perf_counter()
        embeddings = forward(pixels[0])
        compiled = time.perf_counter()
        rate = inference_threads * len(embeddings) / (compiled - ready)
        if rate >= enough:
            # Fewer batches than inference threads would leave some of them idle.
            repeats = -(-inference_threads // len(pixels))
            found, seconds = run_batches(forward, [*pixels] * repeats, inference_threads)
            embeddings, rate = found[: len(reference)], len(found) / seconds
    except PreprocessingError:
        raise
    except Exception as error:
        # An engine raises errors of any type for a network that it does not support.
        _LOGGER.debug("the engine %s in %s failed", engine, precision, exc_info=True)
        return Measured(engine, precision, unavailable=one_line(error))
    near = cosines(embeddings, reference[: len(embeddings)])
    return Measured(
        engine, precision, rate, float(near.min()), float(near.mean()), compiled - started
    )
