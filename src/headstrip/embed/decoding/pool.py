"""A pool of worker processes that decode batches of images, with a time limit for each image.

Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
import pickle
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

from headstrip.embed.decoding.shared_memory import Memory, allocate, attach
from headstrip.embed.decoding.worker import DecodeRequest, ImageResult, WorkerSetup, decode_into
from headstrip.embed.decoding.worker_process import WorkerProcess
from headstrip.errors import HeadstripError
from headstrip.images.pixels import DecodeMode
from headstrip.system.interrupts import interrupts_held

if TYPE_CHECKING:
    from headstrip.embed.sources import Item, Reader
    from headstrip.images.preprocessing import Preprocessing

_LARGEST_CHUNK = 8

_CHUNKS_PER_WORKER = 2
"""Chunks that a worker has at once, so that it does not wait for the parent between two."""

_MOST_DEATHS = 3
"""Workers in a row that may end without having decoded anything."""

_ENDED = (EOFError, OSError, pickle.UnpicklingError)


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """A batch of decoded images.

    Attributes:
        pixels: uint8 array (batch_size, H, W, C), a view of memory that the pool uses again after
            ``DecodePool.release``; zeros in the rows of bad images and in those without an image.
        images: The result of each image, in the order of ``submit``.
    """

    pixels: np.ndarray
    images: list[ImageResult]


class _Batch:
    """A batch that workers decode; only the pool reads and changes it, under the pool's lock."""

    def __init__(self, slot: int, pixels: np.ndarray, count: int) -> None:
        self.slot, self.pixels = slot, pixels
        self.results: list[ImageResult | None] = [None] * count
        self.missing = count
        self.is_released = False
        self.future: Future[DecodedBatch] = Future()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Images of a batch, with their positions in it, that one worker decodes one by one."""

    batch: _Batch
    images: Sequence[tuple[int, Item]]


class DecodePool:
    """Processes that decode batches of images; a context manager.

    Each image goes through the declared preprocessing up to its division. A bad image is a row of
    zeros with a reason. A worker that dies or hangs costs the image that it worked on: another
    worker replaces it and decodes the rest. The workers end with this process, however it ends.
    """

    def __init__(
        self,
        reader: Reader,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        workers: int,
        slots: int,
        timeout: float = 60.0,
        mode: DecodeMode = "exact",
    ) -> None:
        """Keep the arguments; ``with`` starts the workers.

        Args:
            reader: Reads the bytes of the images; the pool pickles it for each worker.
            preprocessing: The steps from an image to the input of a network; not for clips.
            batch_size: Images of a batch.
            workers: Number of processes. 0 decodes in ``submit``, which a decoder that crashes or
                hangs ends or stops.
            slots: Batches in memory at once: being decoded, or decoded and not released.
            timeout: Seconds that one image may take, including the time to read it.
            mode: "exact" for the pixels of the preprocessing, bit for bit; "fast" to decode large
                JPEGs at a fraction of their size.

        Raises:
            HeadstripError: The pool cannot pickle the reader.
        """
        self._reader, self._preprocessing = reader, preprocessing
        self._batch_size, self._workers = batch_size, workers
        self._timeout, self._mode = timeout, mode
        self._shape = (slots, batch_size, *preprocessing.crop, preprocessing.channels)
        self._pickled = _pickled(reader) if workers else b""
        self._memory: Memory | None = None
        # One lock for all that follows.
        self._changed = threading.Condition()
        self._free: list[int] = []
        self._batches: dict[Future[DecodedBatch], _Batch] = {}
        self._chunks: deque[_Chunk] = deque()
        self._processes: dict[int, WorkerProcess] = {}
        self._idle = self._deaths = 0
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = HeadstripError(
            "The pool is not open. Use it within `with DecodePool(...) as pool:`."
        )

    def __enter__(self) -> DecodePool:
        self._failure, self._free = None, list(range(self._shape[0]))
        if not self._workers:
            self._slots = np.zeros(self._shape, np.uint8)
            return self
        self._memory = allocate(self._workers, self._shape)
        self._counters, self._slots = attach(self._memory)
        self._setup = WorkerSetup(
            parent=os.getpid(),
            number=0,
            memory=self._memory,
            reader=self._pickled,
            preprocessing=self._preprocessing,
            mode=self._mode,
            timeout=self._timeout,
            max_pixels=Image.MAX_IMAGE_PIXELS,
            truncated=ImageFile.LOAD_TRUNCATED_IMAGES,
        )
        threads = [
            threading.Thread(target=self._keep_worker, args=(number,), daemon=True)
            for number in range(self._workers)
        ]
        threads.append(threading.Thread(target=self._kill_late_workers, daemon=True))
        try:
            for thread in threads:
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_up()
        self._close()

    def _close(self) -> None:
        """End all workers, also those that are busy or still starting, and wait for their end."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            for process in self._processes.values():
                if not process.is_idle:
                    process.kill()
        # Python 3.11 marks a thread as ended when Ctrl-C interrupts its join.
        with interrupts_held():
            for thread in self._threads:
                thread.join()
        if self._memory is not None and isinstance(self._memory.handle, int):
            os.close(self._memory.handle)
        self._memory = None

    @property
    def pids(self) -> list[int]:
        """The ids of the worker processes that run now."""
        with self._changed:
            return [process.pid for process in self._processes.values()]

    def give_up(self) -> None:
        """Let ``submit``, and the future of every batch that is not decoded yet, raise at once."""
        self._fail(HeadstripError("The run was stopped before these images were decoded."))

    def submit(self, items: Sequence[Item]) -> Future[DecodedBatch]:
        """Decode a batch as soon as there is a slot for it.

        Args:
            items: At most ``batch_size`` images of the reader.

        Returns:
            The future of the batch; pass it to ``release`` when its pixels are not needed any more.

        Raises:
            HeadstripError: Nothing can be decoded: the workers cannot use the reader, or the system
                starts no process.
        """
        with self._changed:
            while not self._free and self._failure is None:
                self._changed.wait()
            if self._failure is not None:
                raise self._failure
            slot = self._free.pop()
            batch = _Batch(slot, self._slots[slot], len(items))
            batch.pixels[len(items) :] = 0
            self._batches[batch.future] = batch
            if not items:
                batch.future.set_result(DecodedBatch(batch.pixels, []))
            images = list(enumerate(items))
            if self._workers:
                # Two chunks per worker, so that others help one that has larger images.
                size = min(_LARGEST_CHUNK, math.ceil(self._batch_size / (2 * self._workers)))
                chunks = range(0, len(images), size)
                self._chunks.extend(_Chunk(batch, images[at : at + size]) for at in chunks)
                self._changed.notify_all()
                return batch.future
        for position, item in images:
            pixels = batch.pixels[position]
            result = decode_into(pixels, self._reader, item, self._preprocessing, self._mode)
            self._store(batch, position, result)
        return batch.future

    def release(self, future: Future[DecodedBatch]) -> None:
        """Give the memory of a batch back to the pool. A second call does nothing."""
        with self._changed:
            batch = self._batches.pop(future, None)
            if batch is None:
                return
            batch.is_released = True
            future.cancel()
            for chunk in [one for one in self._chunks if one.batch is batch]:
                self._chunks.remove(chunk)
                batch.missing -= len(chunk.images)
            if not batch.missing:
                self._give_back(batch)

    def _give_back(self, batch: _Batch) -> None:
        self._free.append(batch.slot)
        self._changed.notify_all()

    def _store(self, batch: _Batch, position: int, result: ImageResult) -> None:
        """Keep the result of one image, and complete its batch where it was the last."""
        with self._changed:
            batch.results[position] = result
            batch.missing -= 1
            if batch.missing:
                return
            if batch.is_released:
                self._give_back(batch)
            elif not batch.future.done():
                results = [result for result in batch.results if result is not None]
                batch.future.set_result(DecodedBatch(batch.pixels, results))

    def _fail(self, failure: BaseException) -> None:
        """Raise an error from all calls that wait and that follow; the first error stays."""
        with self._changed:
            self._failure = self._failure or failure
            for future in self._batches:
                if not future.done():
                    future.set_exception(self._failure)
            self._changed.notify_all()

    def _keep_worker(self, number: int) -> None:
        """Run one worker, and another one when it ends."""
        try:
            while self._run_worker(number):
                pass
        except BaseException as error:
            self._fail(error)

    def _run_worker(self, number: int) -> bool:
        """Send chunks to one worker until it ends; return whether to start another."""
        with self._changed:
            if self._closing.is_set():
                return False
            setup = replace(self._setup, number=number)
            process = self._processes[number] = WorkerProcess(setup, self._counters[number])
        chunks: deque[_Chunk] = deque()
        try:
            process.wait_until_ready()
            while self._send(process, chunks):
                results, chunk = process.receive(), chunks.popleft()
                for (position, _), result in zip(chunk.images, results, strict=True):
                    self._store(chunk.batch, position, result)
                self._deaths = 0
            return False
        except _ENDED:
            if not self._closing.is_set():
                self._recover(process, chunks)
            return True
        finally:
            with self._changed:
                del self._processes[number]
            process.close()

    def _send(self, process: WorkerProcess, held: deque[_Chunk]) -> bool:
        """Send a worker more chunks than it holds; return False when the pool closes."""
        taken: list[_Chunk] = []
        with self._changed:
            while not self._chunks and not held and not self._closing.is_set():
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            if self._closing.is_set():
                return False
            # A second chunk is for a worker only if no other worker is idle.
            while self._chunks and len(held) < _CHUNKS_PER_WORKER and not (held and self._idle):
                taken.append(self._chunks.popleft())
                held.append(taken[-1])
        for chunk in taken:
            positions, items = zip(*chunk.images, strict=True)
            process.request(DecodeRequest(chunk.batch.slot, positions, items))
        return True

    def _recover(self, process: WorkerProcess, chunks: Iterable[_Chunk]) -> None:
        """Mark the image at which a worker ended as bad, and queue its other images again."""
        reason, index = process.explain_end()
        self._deaths = self._deaths + 1 if index is None else 0
        if self._deaths > _MOST_DEATHS:
            raise HeadstripError(
                f"The processes that decode images end before they decode any: {reason} Look at "
                "what they wrote to standard error, or decode in this process with workers=0."
            )
        again = []
        for chunk in chunks:
            images = list(chunk.images)
            if index is not None and 0 <= index < len(images):
                position, _ = images.pop(index)
                # The worker may have written some of the pixels.
                chunk.batch.pixels[position] = 0
                self._store(chunk.batch, position, ImageResult(None, None, reason, None))
            if index is not None:
                index -= len(chunk.images)
            if images:
                again.append(_Chunk(chunk.batch, images))
        with self._changed:
            self._chunks.extendleft(reversed(again))
            self._changed.notify_all()

    def _kill_late_workers(self) -> None:
        while not self._closing.wait(min(1.0, self._timeout / 4)):
            with self._changed:
                processes = list(self._processes.values())
            for process in processes:
                process.kill_if_late()


def _pickled(reader: Reader) -> bytes:
    try:
        return pickle.dumps(reader)
    except Exception as error:
        # Pickling runs code of the reader's class, which can raise any error.
        raise HeadstripError(
            f"headstrip cannot send {reader!r} to other processes ({error}). Define its class in a "
            "module, or decode in this process with workers=0."
        ) from error
