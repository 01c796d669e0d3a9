"""Computes the shards of a plan in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import torch

from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.engines.make import make_engine
from headstrip.embed.output.reusable_rows import ReusableRows
from headstrip.embed.output.table import Rows, table_of
from headstrip.embed.pipeline import Pipeline, RowProgress, ShardTask
from headstrip.embed.plan import RunPlan
from headstrip.embed.report import Stages, check_errors, first_bad
from headstrip.system.interrupts import interrupts_held

Execute = Callable[[RunPlan, RowProgress], tuple[Stages, int]]
"""Computes and writes the shards of a plan, as ``execute`` does."""


def execute(plan: RunPlan, progress: RowProgress) -> tuple[Stages, int]:
    """Compute and write the shards of a plan.

    Args:
        plan: What to do.
        progress: Called with the number of rows done since the last call.

    Returns:
        The seconds in each stage, and how many images were read.

    Raises:
        HeadstripError: There are too many bad images.
        OSError: A shard cannot be written.
    """
    with ShardExecutor(plan) as executor:
        executor.run(plan.todo, progress)
    return executor.stages, executor.computed


class ShardExecutor:
    """Worker processes and a network that are ready to compute shards; a context manager.

    Within it the encoder is in eval mode, and torch has the threads of the plan.

    Attributes:
        computed: Images that were read so far.
        bad: Bad images so far, including those of earlier runs.
        example: One of them, with its reason.
        stages: Seconds in each stage so far.
    """

    def __init__(self, plan: RunPlan) -> None:
        """Keep the plan; ``with`` starts the workers."""
        self._plan = plan
        self._stack = ExitStack()
        self.computed, self.bad, self.example = 0, plan.bad_before, ""
        self.stages = Stages()

    def __enter__(self) -> ShardExecutor:
        """Start the workers and prepare the network."""
        started, encoder, running = time.perf_counter(), self._plan.encoder, self._plan.parallelism
        preprocessing = encoder.preprocessing
        # `embed_source` refuses an encoder without one.
        assert preprocessing is not None
        with ExitStack() as stack:
            pool = DecodePool(
                self._plan.reader,
                preprocessing,
                batch_size=running.batch_size,
                workers=running.workers,
                slots=running.slots,
                timeout=self._plan.options.timeout,
                mode="fast" if running.settings.decode_mode == "fast" else "exact",
            )
            with interrupts_held():
                self._pool = stack.enter_context(pool)
            stack.enter_context(encoder.evaluating())
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(running.threads)
            self._forward = make_engine(encoder, running.settings).outputs
            self._stack = stack.pop_all()
        self.stages.add("prepared", time.perf_counter() - started)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers, and restore the mode and the threads."""
        self._stack.close()

    def run(self, numbers: Iterable[int], progress: RowProgress) -> None:
        """Compute and write shards.

        Args:
            numbers: Their numbers.
            progress: Called with the number of rows done since the last call.

        Raises:
            HeadstripError: There are too many bad images.
            OSError: A shard cannot be written.
        """
        running = self._plan.parallelism
        pipeline = Pipeline(
            self._pool,
            self._forward,
            self._write,
            batch_size=running.batch_size,
            inference_threads=running.inference_threads,
            threads=running.threads,
            slots=running.slots,
            stages=self.stages,
        )
        pipeline.run(self._tasks(numbers), progress)

    def _tasks(self, numbers: Iterable[int]) -> Iterator[ShardTask]:
        plan = self._plan
        reusable = ReusableRows(
            plan.reusable,
            retry_failed=plan.options.retry_failed,
            checksum=plan.checks_bytes,
            reader=plan.reader,
        )
        for number in numbers:
            items = plan.listing.slice(*plan.shards.bounds(number))
            rows = Rows.empty(items, plan.encoder.output_dim, plan.shards.schema)
            missing = reusable.fill(rows)
            self.computed += len(missing)
            yield ShardTask(number, rows, missing)

    def _write(self, number: int, rows: Rows) -> None:
        """Write a full shard, and count its bad images."""
        for item, pages in zip(rows.items, rows.pages, strict=True):
            if pages > 1:
                self.stages.note_pages(item.path, pages)
        table = table_of(rows, self._plan.shards.schema)
        self._plan.shards.write(number, table)
        bad = len(rows.items) - table["error"].null_count
        if bad:
            self.example = first_bad(table)
        self.bad += bad
        check_errors(self.bad, self._plan.options.max_errors, self.example)
