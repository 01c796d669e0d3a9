"""Resolves the settings of a run that need the encoder or images of the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headstrip.embed.calibrate import Measured, best_batch, calibrate, choose_engine
from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.engines.compile import forward_of
from headstrip.embed.engines.engine import PRECISIONS, Precision
from headstrip.embed.engines.registry import check_engine, engine_names
from headstrip.embed.limits import check_addresses, check_limits
from headstrip.embed.listing import Listing, list_items
from headstrip.embed.parallelism import choose_parallelism
from headstrip.embed.settings import AUTO, EmbedOptions, EmbedSettings
from headstrip.embed.sources import Reader, Source
from headstrip.errors import PreprocessingError
from headstrip.system.out_of_memory import OutOfMemoryError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_SAMPLE = 32
"""Images of the source that engines are compared on, at least."""

_SECONDS = 20.0
"""How long ``measure_engines`` tries batch sizes, about."""


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
    if encoder.place()[0].type != "cpu" and settings.batch_size is None:
        settings = fitting(encoder, settings)
    if AUTO in (settings.engine, settings.precision):
        best = choose_engine(
            measured(encoder, listing, reader, settings, options, images=len(listing))
        )
        notify(
            f"headstrip chose the engine {best.engine} in {best.precision}, the fastest here "
            f"within the tolerance: {best.images_per_second:.1f} images/s, cosine "
            f"{best.cosine_min:.6f} or more to eager torch in fp32."
        )
        settings = replace(settings, engine=best.engine, precision=best.precision)
    return settings


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
    device = encoder.place()[0].type
    size = choose_parallelism(settings, device=device).batch_size
    while True:
        tried = replace(settings, batch_size=size)
        try:
            with encoder.evaluating():
                forward = forward_of(encoder, choose_parallelism(tried, device=device).settings)
                forward(np.zeros(forward.pixels_shape, np.uint8))
        except OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        else:
            return tried


def check_engine_setting(settings: EmbedSettings) -> None:
    """Refuse settings that name an engine which is not installed.

    Raises:
        ValueError: No engine has the name.
    """
    if settings.engine not in (None, AUTO):
        check_engine(str(settings.engine))


def measure_engines(
    encoder: Encoder, source: Source, settings: EmbedSettings, options: EmbedOptions | None = None
) -> tuple[EmbedSettings, list[Measured]]:
    """Measure which batches are fastest, and then each engine and precision, on images of a source.

    Args:
        encoder: The encoder.
        source: The source of the images, which are taken evenly.
        settings: An engine or a precision, to measure only that one; a batch size or threads, to
            measure none of both.
        options: As in ``embed_source``.

    Returns:
        The settings with the batch size and threads of the measurements, and the measurements,
        compared with eager torch in fp32.

    Raises:
        HeadstripError: As ``embed_source``.
        ValueError: No engine has the name.
    """
    options = options or EmbedOptions()
    check_engine_setting(settings)
    check_limits(encoder, settings, options)
    check_addresses(settings, options)
    listing = list_items(source.describe(), source.items())
    if encoder.place()[0].type == "cpu" and settings.batch_size is settings.threads is None:
        best = best_batch(encoder, seconds=_SECONDS)
        settings = replace(settings, batch_size=best.batch_size, threads=best.threads)
    return settings, measured(encoder, listing, source.reader(), settings, options)


def measured(
    encoder: Encoder,
    listing: Listing,
    reader: Reader,
    settings: EmbedSettings,
    options: EmbedOptions,
    images: int | None = None,
) -> list[Measured]:
    """Measure engines and precisions on images of a listing.

    Args:
        encoder: The encoder.
        listing: The images, which are taken evenly.
        reader: Reads their bytes.
        settings: The engine and the precision, each of which is measured in all values if it is
            "auto" or None; the other settings apply to all measurements.
        options: The options of the run.
        images: As in ``calibrate``.
    """
    open_settings = replace(settings, engine=None, precision=None)
    running = choose_parallelism(open_settings, device=encoder.place()[0].type)
    engines = [name for name in engine_names() if settings.engine in (AUTO, None, name)]
    precisions: list[Precision] = [p for p in PRECISIONS if settings.precision in (AUTO, None, p)]
    return calibrate(
        encoder,
        _sample(encoder, listing, reader, running.batch_size, options),
        engines,
        precisions,
        threads=running.threads,
        lanes=running.inference_threads,
        channels_last=bool(running.settings.channels_last),
        images=images,
    )


def _sample(
    encoder: Encoder, listing: Listing, reader: Reader, size: int, options: EmbedOptions
) -> list[np.ndarray]:
    """Decode images of a listing, evenly taken, into whole batches."""
    if encoder.preprocessing is None:
        raise PreprocessingError("The encoder has no preprocessing. Pass one to build_encoder.")
    count = -(-_SAMPLE // size) * size
    numbers = np.linspace(0, len(listing) - 1, count).astype(int)
    items = [listing.slice(number, number + 1)[0] for number in map(int, numbers)]
    batches = []
    pool = DecodePool(
        reader,
        encoder.preprocessing,
        batch_size=size,
        workers=0 if options.workers == 0 else 1,
        slots=1,
        timeout=options.timeout,
    )
    with pool:
        for start in range(0, count, size):
            future = pool.submit(items[start : start + size])
            batches.append(future.result().pixels.copy())
            pool.release(future)
    return batches
