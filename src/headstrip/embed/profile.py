"""Shows where the time of a run goes, on the first images of a source."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstrip.embed.parallelism import choose_parallelism
from headstrip.embed.run import Progress, embed_source
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.embed.sources import Item, Reader, Source

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

IMAGES = 2000
"""Images that a profile embeds."""

_WAITING = 0.2
"""Share of the inference threads' time from which on waiting for images is the bottleneck."""


def profile(
    encoder: Encoder,
    source: Source,
    settings: EmbedSettings,
    options: EmbedOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Embed the first 2,000 images of a source into a temporary file, and measure each stage.

    Args:
        encoder: The encoder.
        source: The images.
        settings: As in ``embed_source``.
        options: As in ``embed_source``.
        progress: As in ``embed_source``.

    Returns:
        Values for JSON: the number of ``images``, the ``seconds`` from the first file to the last
        row, ``images_per_second``, the number of ``inference_threads``, the seconds that these
        spent in the network and waiting for decoded images, added up, the seconds of the writer
        and of preparing, and the ``bottleneck``, for which the others wait: "network",
        "decoding" or "writing".

    Raises:
        HeadstripError: As ``embed_source``.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        report = embed_source(
            encoder,
            _FirstImages(source),
            Path(folder) / "out.parquet",
            settings=settings,
            options=options,
            progress=progress,
        )
        seconds = time.perf_counter() - started
    stages = report.stages
    busy = stages.decoded + stages.forward
    if stages.written > (1 - _WAITING) * seconds:
        bottleneck = "writing"
    else:
        bottleneck = "decoding" if stages.decoded > _WAITING * busy else "network"
    device = encoder.device.type
    return {
        "images": report.rows,
        "seconds": seconds,
        "inference_threads": choose_parallelism(
            report.settings, options, device=device
        ).inference_threads,
        "images_per_second": report.rows / seconds,
        "bottleneck": bottleneck,
        "network_seconds": stages.forward,
        "waiting_seconds": stages.decoded,
        "writing_seconds": stages.written,
        "preparing_seconds": stages.prepared,
    }


@dataclass(frozen=True)
class _FirstImages:
    """The first images of a source, which is a source too."""

    source: Source

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "first": IMAGES}

    def items(self) -> Iterator[Item]:
        return islice(self.source.items(), IMAGES)

    def reader(self) -> Reader:
        return self.source.reader()
