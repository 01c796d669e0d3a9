"""The processes that decode, each with a thread of the parent's that feeds it."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable

from headstrip.embed.decoding.decoder_process import DecoderProcess
from headstrip.embed.decoding.decoder_worker import Order, Outcome
from headstrip.embed.decoding.tickets import Chunk
from headstrip.errors import HeadstripError
from headstrip.system.interrupts import interrupts_held

_HELD = 2
"""Chunks that a process has at once: it need not wait for the parent between two."""

_STRIKES = 3
_ENDED = (EOFError, OSError, pickle.UnpicklingError)
_DROPPED = Outcome(None, None, "nobody waits for it.", None)


class Lanes:
    """Chunks go in, and tickets are filled."""

    def __init__(
        self,
        start: Callable[[int], DecoderProcess],
        workers: int,
        timeout: float,
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start the processes.

        Args:
            start: Starts the process number ``n``, also when the one before it has ended.
            workers: How many there are.
            timeout: Seconds that an image may take.
            failed: Called when nothing can be decoded any more.
        """
        self._start, self._timeout, self._failed = start, timeout, failed
        self._chunks: deque[Chunk] = deque()
        self._changed = threading.Condition()
        self._idle = self._strikes = 0
        self._processes: dict[int, DecoderProcess] = {}
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(workers)
        ]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))
        self._start_threads()

    def _start_threads(self) -> None:
        """Start all threads, or end those that were started."""
        started = []
        try:
            for thread in self._threads:
                thread.start()
                started.append(thread)
        except BaseException:
            self._threads = started
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that are there."""
        with self._changed:
            return [process.pid for process in self._processes.values()]

    def put(self, chunks: Iterable[Chunk]) -> None:
        """Have chunks decoded."""
        with self._changed:
            self._chunks.extend(chunks)
            self._changed.notify_all()

    def close(self) -> None:
        """End all processes, busy ones too, and wait for their end."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            for process in self._processes.values():
                if process.is_busy:
                    process.kill()
        # Python 3.11 takes a thread for ended whose join was interrupted.
        with interrupts_held():
            for thread in self._threads:
                thread.join()

    def _run(self, number: int) -> None:
        try:
            while self._serve(number):
                pass
        except BaseException as error:
            self._failed(error)

    def _serve(self, number: int) -> bool:
        """Feed one process until it ends; return whether there is to be another."""
        process = self._begin(number)
        if process is None:
            return False
        held: deque[Chunk] = deque()
        try:
            process.greet()
            while self._take(process, held):
                outcomes, chunk = process.answer(), held.popleft()
                for place, outcome in zip(chunk.places, outcomes, strict=True):
                    chunk.ticket.put(place, outcome)
                self._strikes = 0
            return False
        except _ENDED:
            if not self._closing.is_set():
                self._recover(process, held)
            return True
        finally:
            with self._changed:
                del self._processes[number]
            process.close()

    def _begin(self, number: int) -> DecoderProcess | None:
        with self._changed:
            if self._closing.is_set():
                return None
            process = self._processes[number] = self._start(number)
            return process

    def _take(self, process: DecoderProcess, held: deque[Chunk]) -> bool:
        """Give a process what there is, or wait for it; return False when all is over."""
        taken = []
        with self._changed:
            while not self._chunks and not held and not self._closing.is_set():
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            if self._closing.is_set():
                return False
            while self._chunks and len(held) < _HELD and not (held and self._idle):
                chunk = self._chunks.popleft()
                if chunk.ticket.is_released:
                    taken.append((chunk, False))
                    continue
                held.append(chunk)
                taken.append((chunk, True))
        for chunk, is_wanted in taken:
            if is_wanted:
                process.order(Order(chunk.slot, chunk.places, chunk.items))
            else:
                for place in chunk.places:
                    chunk.ticket.put(place, _DROPPED)
        return bool(held) or self._take(process, held)

    def _recover(self, process: DecoderProcess, held: Iterable[Chunk]) -> None:
        """Give up the image at which a process ended, and have others decode what else it held."""
        why, at = process.post_mortem()
        self._strikes = self._strikes + 1 if at is None else 0
        if self._strikes > _STRIKES:
            raise HeadstripError(
                f"The processes that decode images end before they decode any: {why} Look at what "
                "they wrote to the standard error, or decode in this process with workers=0."
            )
        again = []
        for chunk in held:
            if at is not None and 0 <= at < len(chunk.items):
                chunk.ticket.put_lost(chunk.places[at], Outcome(None, None, why, None))
                again.append(chunk.without(at))
            else:
                again.append(chunk)
            at = None if at is None else at - len(chunk.items)
        with self._changed:
            self._chunks.extendleft(chunk for chunk in reversed(again) if chunk.items)
            self._changed.notify_all()

    def _watch(self) -> None:
        """Kill what takes too long."""
        while not self._closing.wait(min(1.0, self._timeout / 4)):
            with self._changed:
                processes = list(self._processes.values())
            for process in processes:
                process.look()
