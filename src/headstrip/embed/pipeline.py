"""Runs decoding, the network and the writing of shards at the same time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from headstrip.embed.output.table import Rows
from headstrip.embed.report import Stages
from headstrip.system.interrupts import interrupts_held
from headstrip.system.out_of_memory import OutOfMemoryError

if TYPE_CHECKING:
    from headstrip.embed.decoding.pool import DecodedBatch, DecodePool

RowProgress = Callable[[int], None]
"""Gets the number of rows that were finished since the last call."""

_SECONDS_BETWEEN_CHECKS = 0.2
_FULL_SHARDS = 4
_SECONDS_TO_RETRY = 1.0


@dataclass(slots=True)
class ShardTask:
    """A shard to fill.

    Attributes:
        number: Number of the shard.
        rows: All rows of the shard; earlier runs may have computed some.
        missing: Indices of the rows to compute.
        pending: Batches of the shard that are not finished; the pipeline counts them.
    """

    number: int
    rows: Rows
    missing: list[int]
    pending: int = 0


class Pipeline:
    """Inference threads that run the network while a pool decodes and a thread writes shards.

    All queues are bounded. ``run`` raises the first error of any thread, which ends all of them.
    """

    def __init__(
        self,
        pool: DecodePool,
        forward: Callable[[np.ndarray], Sequence[np.ndarray]],
        write: Callable[[int, Rows], None],
        *,
        batch_size: int,
        inference_threads: int,
        threads: int,
        slots: int,
        stages: Stages,
    ) -> None:
        """Keep the arguments; ``run`` starts the threads.

        Args:
            pool: Decodes batches, ``slots`` of them at once; it must be open.
            forward: Maps uint8 (batch_size, H, W, C) to what ``Rows.put`` takes, in any thread.
            write: Gets the number and the rows of each full shard, in the writer thread.
            batch_size: Images of a batch.
            inference_threads: Batches that are in the network at once.
            threads: Threads of the processor for each of them.
            slots: Batches that are being decoded or wait for the network.
            stages: Gets the seconds of each stage.
        """
        self._pool, self._forward, self._write = pool, forward, write
        self._batch_size, self._threads = batch_size, threads
        self._inference_threads = inference_threads
        # Ctrl-C cannot interrupt a SimpleQueue while it holds a lock.
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(slots):
            self._free.put(None)
        self._batches: queue.SimpleQueue[
            tuple[ShardTask, list[int], Future[DecodedBatch]] | None
        ] = queue.SimpleQueue()
        self._full: queue.Queue[ShardTask | None] = queue.Queue(maxsize=_FULL_SHARDS)
        self._finished_rows: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread_ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._running: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._stopped = False
        self._lock = threading.Lock()
        self.stages = stages

    def run(self, tasks: Iterable[ShardTask], progress: RowProgress) -> None:
        """Fill all shards.

        Args:
            tasks: The shards; the pipeline takes the next one when it has room.
            progress: Called in this thread with the number of rows finished since the last call.
        """
        try:
            with interrupts_held():
                self._start(self._write_shards)
                for _ in range(self._inference_threads):
                    self._start(self._infer)
            for task in tasks:
                self._feed(task, progress)
                self._report(progress)
            self._close(progress)
            self._raise_error()
        except BaseException:
            self._stopped = True
            self._pool.give_up()
            with interrupts_held():
                self._close(lambda rows: None)
            raise
        self._report(progress)

    def _start(self, target: Callable[[], None]) -> None:
        """Start a thread that announces its end, because Ctrl-C can break a join."""

        def until_ended() -> None:
            try:
                target()
            finally:
                self._running.remove(threading.current_thread())
                self._thread_ends.put(None)

        thread = threading.Thread(target=until_ended, daemon=True)
        self._running.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._running.remove(thread)
            raise

    def _feed(self, task: ShardTask, progress: RowProgress) -> None:
        batches = [
            task.missing[start : start + self._batch_size]
            for start in range(0, len(task.missing), self._batch_size)
        ]
        task.pending = len(batches)
        self._finished_rows.put(len(task.rows.items) - len(task.missing))
        if not batches:
            self._put_full(task)
        for batch in batches:
            self._wait_for_room()
            self._raise_error()
            with interrupts_held():
                future = self._pool.submit([task.rows.items[row] for row in batch])
                self._batches.put((task, batch, future))
            self._report(progress)

    def _wait_for_room(self) -> None:
        while True:
            try:
                return self._free.get(timeout=_SECONDS_BETWEEN_CHECKS)
            except queue.Empty:
                self._raise_error()

    def _infer(self) -> None:
        """Take batches and run the network until there are no more: one inference thread."""
        # torch gives a new thread the number of threads that the process started with.
        torch.set_num_threads(self._threads)
        while (submitted := self._batches.get()) is not None:
            task, batch, future = submitted
            try:
                if not self._stopped:
                    self._fill(task, batch, future)
            except BaseException as error:
                # When the pipeline stops, batches fail because the pool closed.
                if not self._stopped:
                    self._fail(error)
            finally:
                self._pool.release(future)
                self._free.put(None)

    def _fill(self, task: ShardTask, batch: list[int], future: Future[DecodedBatch]) -> None:
        rows, started = task.rows, time.perf_counter()
        decoded = future.result()
        ready = time.perf_counter()
        self.stages.add("decoded", ready - started)
        for row, image in zip(batch, decoded.images, strict=True):
            rows.widths[row], rows.heights[row] = image.width, image.height
            rows.errors[row], rows.checksums[row] = image.error, image.checksum
            rows.pages[row] = image.pages
        if any(image.error is None for image in decoded.images):
            rows.put(batch, self._embed(decoded.pixels))
            self.stages.add("forward", time.perf_counter() - ready)
        self._finished_rows.put(len(batch))
        with self._lock:
            task.pending -= 1
            is_full = not task.pending
        if is_full:
            self._put_full(task)

    def _embed(self, pixels: np.ndarray) -> Sequence[np.ndarray]:
        try:
            return self._forward(pixels)
        except OutOfMemoryError:
            # Another inference thread, or another program, may free the memory soon.
            time.sleep(_SECONDS_TO_RETRY)
            return self._forward(pixels)

    def _put_full(self, task: ShardTask) -> None:
        while not self._stopped:
            with suppress(queue.Full):
                return self._full.put(task, timeout=_SECONDS_BETWEEN_CHECKS)

    def _write_shards(self) -> None:
        """Write full shards until there are no more: the writer thread."""
        while (task := self._full.get()) is not None:
            if self._error is not None:
                continue
            started = time.perf_counter()
            try:
                self._write(task.number, task.rows)
            except BaseException as error:
                self._fail(error)
            self.stages.add("written", time.perf_counter() - started)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
        self._stopped = True

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _report(self, progress: RowProgress) -> None:
        rows = 0
        while not self._finished_rows.empty():
            rows += self._finished_rows.get()
        if rows and not self._stopped:
            progress(rows)

    def _close(self, progress: RowProgress) -> None:
        """End the inference threads after the last batch, and the writer thread after them."""
        for _ in range(self._inference_threads):
            self._batches.put(None)
        self._wait_until_running(1, progress)
        self._full.put(None)
        self._wait_until_running(0, progress)

    def _wait_until_running(self, count: int, progress: RowProgress) -> None:
        while len(self._running) > count:
            with suppress(queue.Empty):
                self._thread_ends.get(timeout=_SECONDS_BETWEEN_CHECKS)
            self._report(progress)
