"""Shards of a listing through an encoder, on this machine: what every way of running runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.engines.compile import forward_of
from headstrip.embed.listing import Listing
from headstrip.embed.options import check_errors
from headstrip.embed.output.report import first_bad
from headstrip.embed.output.reusable_rows import Priors
from headstrip.embed.output.table import Rows, table_of
from headstrip.embed.output.work_dir import Shards
from headstrip.embed.parallelism import Layout
from headstrip.embed.pipeline import Pipeline, RowProgress, ShardTask, Stages
from headstrip.embed.sources import Reader
from headstrip.system.interrupts import interrupts_held

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Task:
    """What a loop needs besides an encoder, and can be sent to another machine.

    Attributes:
        reader: What reads the images.
        shards: Where the rows go.
        priors: Files whose rows may hold.
        layout: How the network runs.
        retry_failed: Whether the bad images of those rows are tried again.
        checksum: Whether the bytes of an image tell if it changed.
        max_errors: Bad images after which the loop ends, None for any number.
        bad: Bad images of the shards that were done before.
        timeout: Seconds that the decoding of an image may take.
    """

    reader: Reader
    shards: Shards
    priors: tuple[Path, ...]
    layout: Layout
    retry_failed: bool
    checksum: bool
    max_errors: int | None
    bad: int
    timeout: float


class Loop:
    """Decoders and a network that are ready, for one shard after the other.

    It is a context manager; within it the encoder is in eval mode, and torch's threads are those
    of the layout.

    Attributes:
        computed: Images that were read so far.
        bad: Bad images so far, those that were there before included.
        example: One of these, with its reason.
        stages: Seconds in each stage so far.
    """

    def __init__(self, encoder: Encoder, listing: Listing, task: Task) -> None:
        """Take the parts; nothing is started."""
        self._encoder, self._listing, self._task = encoder, listing, task
        self._stack = ExitStack()
        self.computed, self.bad, self.example = 0, task.bad, ""
        self.stages = Stages()

    def __enter__(self) -> Loop:
        """Start the decoders and prepare the network."""
        task, settings, started = self._task, self._task.layout.settings, time.perf_counter()
        preprocessing = self._encoder.preprocessing
        if preprocessing is None:
            # Asking for it raises the encoder's own sentence.
            self._encoder.preprocess(None)
            raise AssertionError
        with ExitStack() as stack:
            pool = DecodePool(
                task.reader, preprocessing, batch_size=int(settings.batch_size or 1),
                workers=task.layout.workers, slots=task.layout.slots, timeout=task.timeout,
                mode="fast" if settings.route == "fast" else "exact",
            )  # fmt: skip
            with interrupts_held():
                self._pool = stack.enter_context(pool)
            stack.enter_context(self._encoder.evaluating())
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(int(settings.threads or 1))
            self._forward = forward_of(self._encoder, settings)
            self._stack = stack.pop_all()
        self.stages.add("prepared", time.perf_counter() - started)
        return self

    def __exit__(self, *_: object) -> None:
        """End the decoders, and put everything back."""
        self._stack.close()

    def run(self, numbers: Iterable[int], told: RowProgress) -> None:
        """Fill and write shards.

        Args:
            numbers: Which.
            told: Called with the number of rows done since it was called last.

        Raises:
            HeadstripError: There are more bad images than are allowed.
            OSError: A shard cannot be written.
        """
        layout = self._task.layout
        pipeline = Pipeline(
            self._pool, self._forward, self._finished,
            batch_size=int(layout.settings.batch_size or 1), inference_threads=layout.lanes,
            threads=int(layout.settings.threads or 1), slots=layout.slots, stages=self.stages,
        )  # fmt: skip
        pipeline.run(self._works(numbers), told)

    def _works(self, numbers: Iterable[int]) -> Iterator[ShardTask]:
        task = self._task
        priors = Priors(
            task.priors, retry_failed=task.retry_failed, checksum=task.checksum, reader=task.reader
        )
        for number in numbers:
            items = self._listing.slice(*task.shards.bounds(number))
            rows = Rows.empty(items, self._encoder.output_dim)
            places = priors.fill(rows)
            self.computed += len(places)
            yield ShardTask(number, rows, places)

    def _finished(self, number: int, rows: Rows) -> None:
        """Write a shard that is full."""
        for item, pages in zip(rows.items, rows.pages, strict=True):
            if pages > 1:
                self.stages.note_pages(item.path, pages)
        table = table_of(rows, self._task.shards.schema)
        self._task.shards.write(number, table)
        found = len(rows.items) - table["error"].null_count
        if found:
            self.example = first_bad(table)
        self.bad += found
        check_errors(self.bad, self._task.max_errors, self.example)
