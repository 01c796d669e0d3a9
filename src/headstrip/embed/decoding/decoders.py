"""Images decoded in other processes: names go in, uint8 pixels come out of shared memory.

Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image, ImageFile

from headstrip.embed.decoding.decoder_lanes import Lanes
from headstrip.embed.decoding.decoder_process import DecoderProcess
from headstrip.embed.decoding.decoder_worker import Setup, read_into
from headstrip.embed.decoding.shared_memory import Memory, allocate, attach
from headstrip.embed.decoding.tickets import Chunk, Decoded, Ticket
from headstrip.errors import HeadstripError, PreprocessingError
from headstrip.images.pixels import Route

if TYPE_CHECKING:
    from headstrip.embed.sources import Item, Reader
    from headstrip.images.preprocessing import Preprocessing

__all__ = ["Decoded", "Decoders", "Ticket"]

_LARGEST_CHUNK = 8


class Decoders:
    """Processes that decode batches of images; a context manager.

    Each image goes through the declared preprocessing up to its division. A bad image is a row of
    zeros with a reason. A process that ends or hangs costs the image that it was at: another takes
    its place, and what else it held is decoded again. They end with this process, however it ends.
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
        route: str = "exact",
    ) -> None:
        """Keep what is to be done; the processes start with ``with``.

        Args:
            reader: What has the images' bytes; pickled for each process.
            preprocessing: The steps from an image to the input of a network.
            batch_size: Images of a batch.
            workers: Number of processes. 0 decodes in ``submit``, where a decoder that crashes or
                hangs is not survived.
            slots: Batches that are decoded, or decoded and not released, at once.
            timeout: Seconds that one image may take, reading it included.
            route: "exact" for the pixels of the preprocessing, bit for bit; "fast" to make large
                JPEGs smaller while they are decoded.

        Raises:
            ValueError: A number is too small, or the route is unknown.
            PreprocessingError: The preprocessing is for clips.
            HeadstripError: The reader cannot be pickled.
        """
        _check(batch_size, workers, slots, timeout, route)
        if preprocessing.frames is not None:
            raise PreprocessingError(
                f"The preprocessing is for clips of {preprocessing.frames} frames, and images are "
                "decoded. Use one whose frames is None."
            )
        self._reader, self._preprocessing = reader, preprocessing
        self._batch_size, self._workers, self._timeout = batch_size, workers, timeout
        self._route: Route = "fast" if route == "fast" else "exact"
        self._shape = (slots, batch_size, *preprocessing.crop, preprocessing.channels)
        self._pickled = _pickled(reader) if workers else b""
        self._lanes: Lanes | None = None
        self._memory: Memory | None = None
        self._free: list[int] = []
        self._room = threading.Condition()
        self._tickets: set[Ticket] = set()
        self._failure: BaseException | None = HeadstripError(
            "The decoders are not open. Use them within `with Decoders(...) as decoders:`."
        )

    def __enter__(self) -> Decoders:
        self._failure, self._free = None, list(range(self._shape[0]))
        if not self._workers:
            self._slots = np.zeros(self._shape, np.uint8)
            return self
        self._memory = allocate(self._workers, self._shape)
        self._counters, self._slots = attach(self._memory)
        self._lanes = Lanes(self._start, self._workers, self._timeout, self._fail)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_up()
        if self._lanes is not None:
            self._lanes.close()
        if self._memory is not None and isinstance(self._memory.handle, int):
            os.close(self._memory.handle)
        self._lanes = self._memory = None

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that decode at the moment."""
        return self._lanes.pids if self._lanes else []

    def give_up(self) -> None:
        """Have ``submit``, and the result of every batch that is not decoded yet, raise at once."""
        self._fail(HeadstripError("The decoders were closed before this batch was decoded."))

    def submit(self, items: Sequence[Item]) -> Ticket:
        """Have a batch decoded, as soon as there is a slot for it.

        Args:
            items: At most ``batch_size`` images of what the reader reads.

        Returns:
            The batch, which is to be released.

        Raises:
            ValueError: There are more.
            HeadstripError: Nothing can be decoded: the reader cannot be used in other processes,
                or none can be started.
        """
        if len(items) > self._batch_size:
            raise ValueError(
                f"{len(items)} images are no batch of {self._batch_size}. Submit fewer at once."
            )
        with self._room:
            while not self._free and self._failure is None:
                self._room.wait()
            if self._failure is not None:
                raise self._failure
            slot = self._free.pop()
            ticket = Ticket(self._slots[slot], len(items), lambda: self._give_back(slot, ticket))
            self._tickets.add(ticket)
        self._decode(Chunk(ticket, slot, range(len(items)), items))
        return ticket

    def _decode(self, chunk: Chunk) -> None:
        """Have images decoded by the processes, or decode them in this one."""
        if self._lanes is not None:
            self._lanes.put(self._parts(chunk))
            return
        for place, item in zip(chunk.places, chunk.items, strict=True):
            pixels = self._slots[chunk.slot, place]
            outcome = read_into(pixels, self._reader, item, self._preprocessing, self._route)
            chunk.ticket.put(place, outcome)

    def _parts(self, chunk: Chunk) -> list[Chunk]:
        # Two for each process, so that one that has larger images leaves the second to others.
        size = min(_LARGEST_CHUNK, math.ceil(self._batch_size / (2 * self._workers)))
        return [
            replace(
                chunk,
                places=chunk.places[start : start + size],
                items=chunk.items[start : start + size],
            )
            for start in range(0, len(chunk.items), size)
        ]

    def _start(self, number: int) -> DecoderProcess:
        assert self._memory is not None
        setup = Setup(
            os.getpid(), number, self._memory, self._pickled, self._preprocessing, self._route,
            self._timeout, Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES,
        )  # fmt: skip
        return DecoderProcess(setup, self._counters[number])

    def _give_back(self, slot: int, ticket: Ticket) -> None:
        with self._room:
            self._tickets.discard(ticket)
            self._free.append(slot)
            self._room.notify()

    def _fail(self, failure: BaseException) -> None:
        """Have all that wait, and all that comes, raise this; the first failure stays."""
        with self._room:
            self._failure = self._failure or failure
            tickets = list(self._tickets)
            self._room.notify_all()
        for ticket in tickets:
            ticket.fail(self._failure)


def _check(batch_size: int, workers: int, slots: int, timeout: float, route: str) -> None:
    if batch_size < 1 or workers < 0 or slots < 1:
        raise ValueError(
            f"batch_size={batch_size}, workers={workers} and slots={slots} decode nothing. Pass a "
            "batch_size and slots of 1 or more, and workers of 0 or more."
        )
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout={timeout} is no time. Pass a number of seconds above 0.")
    if route not in get_args(Route):
        raise ValueError(
            f"There is no route {route!r}. Use one of {', '.join(map(repr, get_args(Route)))}."
        )


def _pickled(reader: Reader) -> bytes:
    try:
        return pickle.dumps(reader)
    except Exception as error:
        raise HeadstripError(
            f"{reader!r} cannot be sent to other processes ({error}). Define it in a module, or "
            "decode in this process with workers=0."
        ) from error
