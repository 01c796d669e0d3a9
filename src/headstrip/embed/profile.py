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
from headstrip.embed.pipeline import Stages
from headstrip.embed.run import Progress, embed_source
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.embed.sources import Item, Reader, Source

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

IMAGES = 2000
"""Images that a profile embeds."""

_WAITING = 0.2
"""Share of the inference threads' time from which on waiting for images is the bottleneck."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How long the stages of a short run took.

    Attributes:
        images: Number of images that were embedded.
        seconds: Time from the first file to the last row.
        lanes: Inference threads: batches in the network at once.
        stages: Seconds that threads spent in each stage.
        settings: How the images were embedded.
    """

    images: int
    seconds: float
    lanes: int
    stages: Stages
    settings: EmbedSettings

    @property
    def bottleneck(self) -> str:
        """The stage that the others wait for: "network", "decoding" or "writing"."""
        stages = self.stages
        if stages.written > (1 - _WAITING) * self.seconds:
            return "writing"
        busy = stages.decoded + stages.forward
        return "decoding" if busy and stages.decoded / busy > _WAITING else "network"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "images": self.images,
            "seconds": self.seconds,
            "lanes": self.lanes,
            "images_per_second": self.images / self.seconds,
            "bottleneck": self.bottleneck,
            "network_seconds": self.stages.forward,
            "waiting_seconds": self.stages.decoded,
            "writing_seconds": self.stages.written,
            "preparing_seconds": self.stages.prepared,
        }


class _First:
    """The first images of a source."""

    def __init__(self, source: Source, count: int) -> None:
        self._source, self._count = source, count
        self.is_stream = False

    def describe(self) -> dict[str, Any]:
        return {**self._source.describe(), "first": self._count}

    def items(self) -> Iterator[Item]:
        return islice(self._source.items(), self._count)

    def reader(self) -> Reader:
        return self._source.reader()


def profile(
    encoder: Encoder,
    source: Source,
    *,
    settings: EmbedSettings | None = None,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
    images: int = IMAGES,
) -> Profile:
    """Embed the first images of a source into a temporary file, and measure each stage.

    Args:
        encoder: The encoder.
        source: The images, of which at most ``images`` are used.
        settings: As in ``embed_source``.
        options: As in ``embed_source``.
        progress: As in ``embed_source``.
        images: Number of images.

    Raises:
        HeadstripError: As ``embed_source``.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        report = embed_source(
            encoder,
            _First(source, images),
            Path(folder) / "out.parquet",
            settings=settings,
            options=options,
            progress=progress,
        )
        seconds = time.perf_counter() - started
    device = encoder.place()[0].type
    running = choose_parallelism(report.settings, options, device=device)
    return Profile(report.rows, seconds, running.inference_threads, report.stages, report.settings)
