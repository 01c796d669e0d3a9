"""Where the time of a run goes, seen on the first images of a source."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstrip.embed.calibrate import Measured
from headstrip.embed.engine_choice import calibrated
from headstrip.embed.limits import check_addresses, check_limits
from headstrip.embed.listing import write_listing
from headstrip.embed.parallelism import lay_out
from headstrip.embed.pipeline import Stages
from headstrip.embed.plan import Settings
from headstrip.embed.run import Options, Progress, embed_source
from headstrip.embed.sources import Item, Reader, Source

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

IMAGES = 2000
"""Images that are looked at."""

_WAITS = 0.2
"""Share of the lanes' time from which on what they wait for is too slow for them."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a short run took.

    Attributes:
        images: How many images were embedded.
        seconds: From the first file to the last row.
        lanes: Batches in the network at once.
        stages: Seconds of threads in each stage.
        settings: How the images were embedded.
    """

    images: int
    seconds: float
    lanes: int
    stages: Stages
    settings: Settings

    @property
    def bottleneck(self) -> str:
        """What the rest waits for: "network", "decoding" or "writing"."""
        stages = self.stages
        if stages.written > (1 - _WAITS) * self.seconds:
            return "writing"
        busy = stages.decoded + stages.forward
        return "decoding" if busy and stages.decoded / busy > _WAITS else "network"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return {
            "images": self.images, "seconds": self.seconds, "lanes": self.lanes,
            "images_per_second": self.images / self.seconds, "bottleneck": self.bottleneck,
            "network_seconds": self.stages.forward, "waiting_seconds": self.stages.decoded,
            "writing_seconds": self.stages.written, "preparing_seconds": self.stages.prepared,
        }  # fmt: skip


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
    settings: Settings | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    images: int = IMAGES,
) -> Profile:
    """Embed the first images of a source into a file that is thrown away, and see what it takes.

    Args:
        encoder: What embeds.
        source: The images; as many as there are, and at most ``images``.
        settings: As ``embed_source``.
        options: As ``embed_source``.
        progress: As ``embed_source``.
        images: How many.

    Raises:
        HeadstripError: As ``embed_source``.
    """
    options = options or Options()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        report = embed_source(
            encoder, _First(source, images), Path(folder) / "out.parquet",
            settings=settings, options=options, progress=progress,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    layout = lay_out(
        report.settings, lanes=options.lanes, workers=options.workers,
        device=encoder.place()[0].type,
    )  # fmt: skip
    return Profile(report.rows, seconds, layout.lanes, report.stages, report.settings)


def measure_engines(
    encoder: Encoder, source: Source, settings: Settings, options: Options | None = None
) -> tuple[Settings, list[Measured]]:
    """Measure how batches run best, and every engine and precision on images of a source.

    Args:
        encoder: What embeds.
        source: Where the images are taken from, evenly.
        settings: An engine or a precision, to measure it alone; and how batches are
            run, where that is not to be measured.
        options: As ``embed_source``.

    Returns:
        The settings with which the engines were measured, and the measurements, against eager
        torch in fp32.
    """
    options = options or Options()
    check_limits(encoder, settings, options)
    check_addresses(settings, options)
    with (
        tempfile.TemporaryDirectory() as folder,
        # Windows removes no folder in which a file is mapped.
        closing(write_listing(Path(folder), source.describe(), source.items())) as listing,
    ):
        return calibrated(encoder, listing, source.reader(), settings, options)
