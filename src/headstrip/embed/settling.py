"""What nobody said of a run is measured, shortly, before it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headstrip.embed.calibrate import Measured, calibrate, choose
from headstrip.embed.decoders import Decoders
from headstrip.embed.engines import ENGINES, PRECISIONS, Engine, Precision
from headstrip.embed.engines.memory import OutOfMemoryError
from headstrip.embed.layout import forward_of, lay_out
from headstrip.embed.layouts import best_batch
from headstrip.embed.listing import Listing
from headstrip.embed.plan import AUTO, Settings
from headstrip.embed.sources import Reader
from headstrip.errors import PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder import Encoder

_WORTH = 1000
"""Images from which on a few seconds of measuring are little of the whole."""

_SAMPLE = 32


def settled(
    encoder: Encoder,
    listing: Listing,
    reader: Reader,
    settings: Settings,
    say: Callable[[str], None],
) -> Settings:
    """Choose what was left open and is worth a measurement; the rest stays open.

    Args:
        encoder: What embeds.
        listing: What is to be embedded.
        reader: What reads it.
        settings: What was said, or settled before.
        say: Called with what was chosen of engines and precisions.

    Returns:
        Settings in which nothing is "auto".

    Raises:
        HeadstripError: No engine stays within the tolerance.
    """
    on_cpu = encoder.place()[0].type == "cpu"
    left_open = settings.batch_size is None and settings.threads is None
    if on_cpu and left_open and settings.channels_last is None and len(listing) >= _WORTH:
        best = best_batch(encoder)
        settings = replace(
            settings, batch_size=best.batch_size, threads=best.threads,
            channels_last=best.channels_last,
        )  # fmt: skip
    if AUTO in (settings.engine, settings.precision):
        found = choose(measured(encoder, listing, reader, settings))
        say(
            f"Of the engines here {found.engine} in {found.precision} is the fastest within the "
            f"tolerance: {found.images_per_second:.1f} images/s, cosine {found.cosine_min:.6f} or "
            "more to eager torch in fp32."
        )
        settings = replace(settings, engine=found.engine, precision=found.precision)
    if not on_cpu and settings.batch_size is None:
        settings = fitting(encoder, settings)
    return settings


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
    encoder: Encoder, listing: Listing, reader: Reader, settings: Settings
) -> list[Measured]:
    """Measure engines and precisions on images of the source.

    Args:
        encoder: What embeds.
        listing: Where the images are taken from, evenly.
        reader: What reads them.
        settings: The engine and the precision, each of all where it is "auto" or None, and how
            batches are run.
    """
    layout = lay_out(
        replace(settings, engine=None, precision=None), lanes=None, workers=None,
        device=encoder.place()[0].type,
    )  # fmt: skip
    size = int(layout.settings.batch_size or 1)
    engines: tuple[Engine, ...] = tuple(e for e in ENGINES if settings.engine in (AUTO, None, e))
    precisions: tuple[Precision, ...] = tuple(
        p for p in PRECISIONS if settings.precision in (AUTO, None, p)
    )
    return calibrate(
        encoder, _sample(encoder, listing, reader, size), engines, precisions,
        threads=int(layout.settings.threads or 1), lanes=layout.lanes,
        channels_last=bool(layout.settings.channels_last),
    )  # fmt: skip


def _sample(encoder: Encoder, listing: Listing, reader: Reader, size: int) -> list[np.ndarray]:
    """Decode images of the source, evenly taken, into whole batches."""
    preprocessing = encoder.preprocessing
    if preprocessing is None:
        raise PreprocessingError("The encoder has no preprocessing. Pass one to build_encoder.")
    count = -(-_SAMPLE // size) * size
    places = np.linspace(0, len(listing) - 1, count).astype(int)
    batches = []
    with Decoders(reader, preprocessing, batch_size=size, workers=1, slots=1) as decoders:
        for start in range(0, count, size):
            items = [listing.slice(p, p + 1)[0] for p in map(int, places[start : start + size])]
            ticket = decoders.submit(items)
            batches.append(ticket.result().pixels.copy())
            ticket.release()
    return batches
