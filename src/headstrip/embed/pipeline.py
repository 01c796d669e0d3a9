"""Images through decoders and network at once, into the rows of shards."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from headstrip.embed.output.table import Rows
from headstrip.system.interrupts import interrupts_held
from headstrip.system.out_of_memory import OutOfMemoryError

if TYPE_CHECKING:
    from headstrip.embed.decoding.decoders import Decoders, Ticket

Forward = Callable[[np.ndarray], np.ndarray]
Finished = Callable[[int, Rows], None]
Told = Callable[[int], None]

_LOOK = 0.2
_NAMED = 5
_MOMENT = 1.0


@dataclass(slots=True)
class Work:
    """A shard to be filled.

    Attributes:
        number: Which shard.
        rows: Its rows, some of them filled already.
        places: Rows that are to be computed.
    """

    number: int
    rows: Rows
    places: list[int]
    pending: int = 0


@dataclass(slots=True)
class Stages:
    """Seconds that threads spent in each stage, added up.

    Attributes:
        decoded: Lanes waiting for decoded images.
        forward: Lanes in the network.
        written: The writer, making and writing shards.
        fed: The caller, waiting because all is being worked on.
        prepared: The caller, starting decoders and having an engine take over the network.
        several: Files of which the first of several pages or frames was used, and how many they
            have; the first few of them.
        severals: How many such files there are.
    """

    decoded: float = 0.0
    forward: float = 0.0
    written: float = 0.0
    fed: float = 0.0
    prepared: float = 0.0
    several: dict[str, int] = field(default_factory=dict)
    severals: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, seconds: float) -> None:
        """Add the seconds of one thread."""
        with self._lock:
            setattr(self, stage, getattr(self, stage) + seconds)

    def note_pages(self, path: str, pages: int) -> None:
        """Note a file of which the first of several pages or frames was used."""
        with self._lock:
            self.severals += 1
            if len(self.several) < _NAMED:
                self.several[path] = pages


class Pipeline:
    """Lanes that run the network while decoders decode and a thread writes.

    All queues are bounded. The first error of any thread ends all of them, and is raised by
    ``run``.
    """

    def __init__(
        self,
        decoders: Decoders,
        forward: Forward,
        finished: Finished,
        *,
        batch_size: int,
        lanes: int,
        threads: int,
        slots: int,
        stages: Stages,
    ) -> None:
        """Take the parts.

        Args:
            decoders: What decodes; it has ``slots`` slots.
            forward: Maps uint8 (batch_size, H, W, C) to float32 (batch_size, dim), from any
                thread.
            finished: Called with the number and the rows of each shard that is filled, in a
                thread of its own.
            batch_size: Images of a batch.
            lanes: Batches that are in the network at once.
            threads: Threads of the processor that each of them has.
            slots: Batches that are being decoded or wait for the network.
            stages: What the seconds are added to.
        """
        self._decoders, self._forward, self._finished = decoders, forward, finished
        self._batch_size, self._lanes, self._threads = batch_size, lanes, threads
        # Simple queues: Ctrl-C cannot come while Python holds a lock of theirs.
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(slots):
            self._free.put(None)
        self._tasks: queue.SimpleQueue[tuple[Work, list[int], Ticket] | None] = queue.SimpleQueue()
        self._full: queue.Queue[Work | None] = queue.Queue(maxsize=4)
        self._told: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._started: list[threading.Thread] = []
        self._failed: BaseException | None = None
        self._stopped = False
        self._lock = threading.Lock()
        self.stages = stages

    def run(self, works: Iterable[Work], told: Told) -> None:
        """Fill all shards.

        Args:
            works: The shards, taken as there is room.
            told: Called in this thread with the number of rows done since it was called last.
        """
        try:
            with interrupts_held():
                self._start(self._writer)
                for _ in range(self._lanes):
                    self._start(self._lane)
            for work in works:
                self._feed(work, told)
                self._tell(told)
            self._close(told)
            self._raise()
        except BaseException:
            self._stopped = True
            self._decoders.give_up()
            with interrupts_held():
                self._close(lambda done: None)
            raise
        self._tell(told)

    def _start(self, target: Callable[[], None]) -> None:
        """Start a thread whose end is told: joining one is not safe from interruptions."""

        def until_ended() -> None:
            try:
                target()
            finally:
                self._started.remove(threading.current_thread())
                self._ended.put(None)

        thread = threading.Thread(target=until_ended, daemon=True)
        self._started.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._started.remove(thread)
            raise

    def _feed(self, work: Work, told: Told) -> None:
        chunks = [
            work.places[start : start + self._batch_size]
            for start in range(0, len(work.places), self._batch_size)
        ]
        work.pending = len(chunks)
        self._told.put(len(work.rows.items) - len(work.places))
        if not chunks:
            self._put_full(work)
        for places in chunks:
            started = time.perf_counter()
            self._wait_for_room()
            self.stages.add("fed", time.perf_counter() - started)
            self._raise()
            with interrupts_held():
                ticket = self._decoders.submit([work.rows.items[place] for place in places])
                self._tasks.put((work, places, ticket))
            self._tell(told)

    def _wait_for_room(self) -> None:
        while True:
            try:
                return self._free.get(timeout=_LOOK)
            except queue.Empty:
                self._raise()

    def _lane(self) -> None:
        # A new thread has as many threads for its batches as the process was started with.
        torch.set_num_threads(self._threads)
        while (task := self._tasks.get()) is not None:
            work, places, ticket = task
            try:
                if not self._stopped:
                    self._fill(work, places, ticket)
            except BaseException as error:
                # Told to end, it may find its images gone.
                if not self._stopped:
                    self._fail(error)
            finally:
                ticket.release()
                self._free.put(None)

    def _fill(self, work: Work, places: Sequence[int], ticket: Ticket) -> None:
        rows, started = work.rows, time.perf_counter()
        decoded = ticket.result()
        ready = time.perf_counter()
        self.stages.add("decoded", ready - started)
        for slot, place in enumerate(places):
            rows.widths[place], rows.heights[place] = decoded.widths[slot], decoded.heights[slot]
            rows.errors[place] = decoded.errors[slot]
            rows.checksums[place] = decoded.checksums[slot]
            rows.pages[place] = decoded.pages[slot]
        if any(error is None for error in decoded.errors[: len(places)]):
            rows.embeddings[places] = self._through(decoded.pixels)[: len(places)]
            self.stages.add("forward", time.perf_counter() - ready)
        self._told.put(len(places))
        with self._lock:
            work.pending -= 1
            full = not work.pending
        if full:
            self._put_full(work)

    def _through(self, pixels: np.ndarray) -> np.ndarray:
        try:
            return self._forward(pixels)
        except OutOfMemoryError:
            # Another lane, or another program, may have had it for a moment.
            time.sleep(_MOMENT)
            return self._forward(pixels)

    def _put_full(self, work: Work) -> None:
        while not self._stopped:
            try:
                self._full.put(work, timeout=_LOOK)
                return
            except queue.Full:
                continue

    def _writer(self) -> None:
        while (work := self._full.get()) is not None:
            if self._stopped and self._failed is not None:
                continue
            started = time.perf_counter()
            try:
                self._finished(work.number, work.rows)
            except BaseException as error:
                self._fail(error)
            self.stages.add("written", time.perf_counter() - started)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failed = self._failed or error
        self._stopped = True

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _tell(self, told: Told) -> None:
        done = 0
        while not self._told.empty():
            done += self._told.get()
        if done and not self._stopped:
            told(done)

    def _close(self, told: Told) -> None:
        """Have the lanes end when they have done what there is, and the writer after them."""
        for _ in range(self._lanes):
            self._tasks.put(None)
        self._await(1, told)
        self._full.put(None)
        self._await(0, told)

    def _await(self, running: int, told: Told) -> None:
        while len(self._started) > running:
            with suppress(queue.Empty):
                self._ended.get(timeout=_LOOK)
            self._tell(told)
