"""Engines and precisions, measured where the caller asks for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headstrip.embed.batch_tuning import best_batch
from headstrip.embed.calibrate import Measured, calibrate, choose_engine
from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.engines.compile import forward_of
from headstrip.embed.engines.engine import PRECISIONS, Precision
from headstrip.embed.engines.registry import engine_names
from headstrip.embed.listing import Listing
from headstrip.embed.options import Options
from headstrip.embed.parallelism import lay_out
from headstrip.embed.plan import AUTO, Settings
from headstrip.embed.sources import Item, Reader
from headstrip.errors import PreprocessingError
from headstrip.system.out_of_memory import OutOfMemoryError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder
    from headstrip.images.preprocessing import Preprocessing

_SAMPLE = 32
"""Images of the source that engines are compared on, at least."""

_SECONDS = 20.0
"""How long ``calibrated`` tries sizes of batches, about."""


def chosen(
    encoder: Encoder,
    listing: Listing,
    reader: Reader,
    settings: Settings,
    say: Callable[[str], None],
    options: Options,
) -> Settings:
    """Choose the engine and the precision where they are "auto", and a batch that a GPU can hold.

    Args:
        encoder: What embeds.
        listing: What is to be embedded.
        reader: What reads it.
        settings: What was asked for, or is in the file that the run goes on with.
        say: Called with the engine and the precision that were chosen.
        options: With how many processes images are decoded, and how long each may take.

    Returns:
        Settings in which nothing is "auto".

    Raises:
        HeadstripError: No engine stays within the tolerance.
    """
    if encoder.place()[0].type != "cpu" and settings.batch_size is None:
        settings = fitting(encoder, settings)
    if AUTO in (settings.engine, settings.precision):
        best = choose_engine(
            measured(encoder, listing, reader, settings, options, images=len(listing))
        )
        say(
            f"Of the engines here {best.engine} in {best.precision} is the fastest within the "
            f"tolerance: {best.images_per_second:.1f} images/s, cosine {best.cosine_min:.6f} or "
            "more to eager torch in fp32."
        )
        settings = replace(settings, engine=best.engine, precision=best.precision)
    return settings


def calibrated(
    encoder: Encoder, listing: Listing, reader: Reader, settings: Settings, options: Options
) -> tuple[Settings, list[Measured]]:
    """Measure which size of batch is fastest, and with it the engines and precisions.

    Args:
        encoder: What embeds.
        listing: Where images are taken from, evenly.
        reader: What reads them.
        settings: An engine or a precision, to measure it alone; and a batch size or threads, where
            they are not to be measured.
        options: As in ``chosen``.

    Returns:
        The settings with a batch size and threads, and the measurements.
    """
    is_open = settings.batch_size is settings.threads is None
    if encoder.place()[0].type == "cpu" and is_open:
        best = best_batch(encoder, seconds=_SECONDS)
        settings = replace(settings, batch_size=best.batch_size, threads=best.threads)
    return settings, measured(encoder, listing, reader, settings, options)


def fitting(encoder: Encoder, settings: Settings) -> Settings:
    """Halve the batch until it fits in the memory of the device.

    Args:
        encoder: What embeds.
        settings: How; the batch that ``lay_out`` chooses is begun with where none is said.

    Returns:
        The settings with a size of batch that went through the network once.

    Raises:
        OutOfMemoryError: Not even one image fits.
    """
    device = encoder.place()[0].type
    size = int(lay_out(settings, lanes=None, workers=None, device=device).settings.batch_size or 1)
    while True:
        tried = replace(settings, batch_size=size)
        layout = lay_out(tried, lanes=None, workers=None, device=device)
        try:
            with encoder.evaluating():
                forward = forward_of(encoder, layout.settings)
                forward(np.zeros(forward.pixels_shape, np.uint8))
        except OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        else:
            return tried


def measured(
    encoder: Encoder, listing: Listing, reader: Reader, settings: Settings, options: Options,
    images: int | None = None,
) -> list[Measured]:  # fmt: skip
    """Measure engines and precisions on images of the source.

    Args:
        encoder: What embeds.
        listing: Where the images are taken from, evenly.
        reader: What reads them.
        settings: The engine and the precision, each of all where it is "auto" or None, and how
            batches are run.
        options: As in ``chosen``.
        images: As in ``calibrate``.
    """
    layout = lay_out(
        replace(settings, engine=None, precision=None), lanes=None, workers=None,
        device=encoder.place()[0].type,
    )  # fmt: skip
    size = int(layout.settings.batch_size or 1)
    engines = [name for name in engine_names() if settings.engine in (AUTO, None, name)]
    precisions: tuple[Precision, ...] = tuple(
        p for p in PRECISIONS if settings.precision in (AUTO, None, p)
    )
    return calibrate(
        encoder, _sample(encoder, listing, reader, size, options), engines, precisions,
        threads=int(layout.settings.threads or 1), lanes=layout.lanes,
        channels_last=bool(layout.settings.channels_last), images=images,
    )  # fmt: skip


def _sample(
    encoder: Encoder, listing: Listing, reader: Reader, size: int, options: Options
) -> list[np.ndarray]:
    """Decode images of the source, evenly taken, into whole batches."""
    count = -(-_SAMPLE // size) * size
    items, batches = _spread(listing, count), []
    workers = 0 if options.workers == 0 else 1
    preprocessing, timeout = _preprocessing(encoder), options.timeout
    pool = DecodePool(
        reader, preprocessing, batch_size=size, workers=workers, slots=1, timeout=timeout
    )
    with pool:
        for start in range(0, count, size):
            future = pool.submit(items[start : start + size])
            batches.append(future.result().pixels.copy())
            pool.release(future)
    return batches


def _spread(listing: Listing, count: int) -> list[Item]:
    places = np.linspace(0, len(listing) - 1, count).astype(int)
    return [listing.slice(place, place + 1)[0] for place in map(int, places)]


def _preprocessing(encoder: Encoder) -> Preprocessing:
    if encoder.preprocessing is None:
        raise PreprocessingError("The encoder has no preprocessing. Pass one to build_encoder.")
    return encoder.preprocessing
