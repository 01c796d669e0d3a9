"""What nobody said of a run is measured, shortly, before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstrip.embed.calibrate import LEFT_OUT, Measured, calibrate, choose, is_worth
from headstrip.embed.decoders import Decoders
from headstrip.embed.engines import ENGINES, PRECISIONS, Engine, Precision
from headstrip.embed.engines.memory import OutOfMemoryError
from headstrip.embed.layout import forward_of, lay_out
from headstrip.embed.layouts import Layout as Batches
from headstrip.embed.layouts import best_batch, seconds_an_image
from headstrip.embed.listing import Listing
from headstrip.embed.options import Options
from headstrip.embed.plan import AUTO, Settings
from headstrip.embed.remembered import recall, remember, situation
from headstrip.embed.sources import Item, Reader
from headstrip.errors import PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder import Encoder
    from headstrip.preprocessing import Preprocessing

Here = Mapping[str, Any]

_SAMPLE = 32

_SHARE = 0.05
"""Share of a run's time that goes into finding out how batches are laid out, at most."""

_MANY = 100
"""Images among which one more is little."""

_LEAST, _MOST = 3.0, 20.0
"""Seconds of measuring that tell anything, and that are always enough."""


def settled(
    encoder: Encoder,
    listing: Listing,
    reader: Reader,
    settings: Settings,
    say: Callable[[str], None],
    *,
    identity: str,
    options: Options,
) -> Settings:
    """Choose what was left open and is worth a measurement; the rest stays open.

    What was measured on this machine before, of this encoder, is taken from the cache.

    Args:
        encoder: What embeds.
        listing: What is to be embedded.
        reader: What reads it.
        settings: What was said, or settled before.
        say: Called with what was chosen of engines and precisions.
        identity: That of the encoder's fingerprint.
        options: With how many processes images are decoded, and how long each may take.

    Returns:
        Settings in which nothing is "auto".

    Raises:
        HeadstripError: No engine stays within the tolerance.
    """
    on_cpu = encoder.place()[0].type == "cpu"
    here = situation(encoder, identity)
    if on_cpu and _is_open(settings):
        settings = _laid_out(encoder, settings, len(listing), here)
    if not on_cpu and settings.batch_size is None:
        settings = fitting(encoder, settings)
    if AUTO in (settings.engine, settings.precision):
        found, is_new = _engines(encoder, listing, reader, settings, here, options)
        best = choose(found)
        say(
            f"Of the engines here {best.engine} in {best.precision} is the fastest within the "
            f"tolerance{'' if is_new else ', as measured before'}: {best.images_per_second:.1f} "
            f"images/s, cosine {best.cosine_min:.6f} or more to eager torch in fp32."
        )
        settings = replace(settings, engine=best.engine, precision=best.precision)
    return settings


def calibrated(
    encoder: Encoder, listing: Listing, reader: Reader, settings: Settings, options: Options
) -> tuple[Settings, list[Measured]]:
    """Measure how batches are laid out best, and engines and precisions, and remember it.

    Args:
        encoder: What embeds.
        listing: Where images are taken from, evenly.
        reader: What reads them.
        settings: An engine or a precision, to measure it alone; and how batches are run, where it
            is not to be measured.
        options: As in ``settled``.

    Returns:
        The settings with a layout, and the measurements.
    """
    here = situation(encoder, encoder.fingerprint.identity)
    if encoder.place()[0].type == "cpu" and _is_open(settings):
        best = best_batch(encoder, seconds=_MOST)
        remember(_of_layout(here), best._asdict())
        settings = _with(settings, best)
    found = measured(encoder, listing, reader, settings, options)
    _remember_engines(here, settings, found)
    return settings, found


def _is_open(settings: Settings) -> bool:
    return settings.batch_size is settings.threads is settings.channels_last is None


def _laid_out(encoder: Encoder, settings: Settings, images: int, here: Here) -> Settings:
    """Lay out the batches as was measured before, or is measured now where it is worth it."""
    found = recall(_of_layout(here))
    try:
        return _with(settings, Batches(**found))
    except (TypeError, ValueError):
        # One image tells how long all take, and has to be little beside them.
        seconds = _SHARE * images * seconds_an_image(encoder) if images >= _MANY else 0.0
    if seconds < _LEAST:
        return settings
    best = best_batch(encoder, seconds=min(seconds, _MOST))
    remember(_of_layout(here), best._asdict())
    return _with(settings, best)


def _with(settings: Settings, best: Batches) -> Settings:
    return replace(
        settings, batch_size=best.batch_size, threads=best.threads, channels_last=best.channels_last
    )


def _engines(
    encoder: Encoder, listing: Listing, reader: Reader, settings: Settings, here: Here,
    options: Options,
) -> tuple[list[Measured], bool]:  # fmt: skip
    """Return measurements of the engines that are asked for, and whether they were made now."""
    try:
        found = [Measured(**_said(each)) for each in recall(_of_engines(here, settings))]
        if any(one.engine not in ENGINES or one.precision not in PRECISIONS for one in found):
            raise ValueError("engines of another version")
        rate = max(one.images_per_second for one in found if not one.unavailable)
        is_enough = not is_worth(len(listing), rate)
        if is_enough or all(one.unavailable != LEFT_OUT for one in found):
            return found, False
    except (TypeError, ValueError, AttributeError):
        pass
    found = measured(encoder, listing, reader, settings, options, images=len(listing))
    _remember_engines(here, settings, found)
    return found, True


def _said(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``Measured.to_json`` wrote without its nulls, which stand for NaN."""
    return {name: value for name, value in measured.items() if value is not None}


def _remember_engines(here: Here, settings: Settings, found: list[Measured]) -> None:
    if any(not one.unavailable for one in found):
        remember(_of_engines(here, settings), [each.to_json() for each in found])


def _of_layout(here: Here) -> dict[str, Any]:
    return {"what": "layout", **here}


def _of_engines(here: Here, settings: Settings) -> dict[str, Any]:
    asked = {name: getattr(settings, name) for name in ("batch_size", "threads", "channels_last")}
    chosen = {name: getattr(settings, name) or AUTO for name in ("engine", "precision")}
    return {"what": "engines", **asked, **chosen, **here}


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
        options: As in ``settled``.
        images: As in ``calibrate``.
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
    with Decoders(reader, _preprocessing(encoder), batch_size=size, workers=workers, slots=1,
                  timeout=options.timeout) as decoders:  # fmt: skip
        for start in range(0, count, size):
            ticket = decoders.submit(items[start : start + size])
            batches.append(ticket.result().pixels.copy())
            ticket.release()
    return batches


def _spread(listing: Listing, count: int) -> list[Item]:
    places = np.linspace(0, len(listing) - 1, count).astype(int)
    return [listing.slice(place, place + 1)[0] for place in map(int, places)]


def _preprocessing(encoder: Encoder) -> Preprocessing:
    if encoder.preprocessing is None:
        raise PreprocessingError("The encoder has no preprocessing. Pass one to build_encoder.")
    return encoder.preprocessing
