"""Batches that are being decoded, and what comes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from headstrip.embed.decoding.decoder_worker import Outcome
    from headstrip.embed.sources import Item


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch of decoded images; the lists have an entry an image, in the order submitted.

    Attributes:
        pixels: uint8 array (batch_size, H, W, C), a view of memory that is used again after
            ``Ticket.release``; zeros in the rows of bad images and of those that are not there.
        widths: Pixels of each image as shown, None where it could not be read.
        heights: Pixels of each image as shown, None where it could not be read.
        errors: Why there are no pixels of an image, None where there are.
        checksums: What ``checksum_of`` makes of its bytes, None where they could not be read.
        pages: Pages or frames of its file.
    """

    pixels: np.ndarray
    widths: list[int | None]
    heights: list[int | None]
    errors: list[str | None]
    checksums: list[str | None]
    pages: list[int]


class Ticket:
    """A batch that is being decoded."""

    def __init__(self, pixels: np.ndarray, count: int, freed: Callable[[], None]) -> None:
        """Begin a batch; ``Decoders.submit`` makes tickets.

        Args:
            pixels: uint8 array (batch_size, H, W, C) that the images go to.
            count: How many images there are.
            freed: Called when nobody writes to or reads from the pixels any more.
        """
        self._pixels, self._freed = pixels, freed
        self._outcomes: list[Outcome | None] = [None] * count
        self._left = count
        self._lock = threading.Lock()
        self._is_done = threading.Event()
        self._is_released = False
        self._failure: BaseException | None = None
        pixels[count:] = 0
        if not count:
            self._is_done.set()

    def result(self) -> Decoded:
        """Wait for all images of the batch.

        Raises:
            HeadstripError: They cannot be decoded; not because of any of them.
        """
        self._is_done.wait()
        if self._failure is not None:
            raise self._failure
        done = [outcome for outcome in self._outcomes if outcome is not None]
        return Decoded(
            self._pixels,
            [outcome.width for outcome in done],
            [outcome.height for outcome in done],
            [outcome.error for outcome in done],
            [outcome.checksum for outcome in done],
            [outcome.pages for outcome in done],
        )

    def release(self) -> None:
        """Give the memory back, for another batch. A second time does nothing."""
        with self._lock:
            is_free = not self._left and not self._is_released
            self._is_released = True
        if is_free:
            self._freed()

    @property
    def is_released(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self._is_released

    def put(self, place: int, outcome: Outcome) -> None:
        """Say what became of an image; its pixels are there. Once for each."""
        with self._lock:
            self._outcomes[place] = outcome
            self._left -= 1
            is_done, is_free = not self._left, not self._left and self._is_released
        if is_done:
            self._is_done.set()
        if is_free:
            self._freed()

    def put_lost(self, place: int, outcome: Outcome) -> None:
        """Say what became of an image whose pixels may be half there."""
        self._pixels[place] = 0
        self.put(place, outcome)

    def fail(self, failure: BaseException) -> None:
        """Have ``result`` raise this, where it has not all images yet."""
        with self._lock:
            if self._left:
                self._failure = failure
        self._is_done.set()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images of a batch that one process decodes, one after the other.

    Attributes:
        ticket: Whose they are.
        slot: Where the batch is in the shared memory.
        places: Where each goes in the batch.
        items: The images.
    """

    ticket: Ticket
    slot: int
    places: Sequence[int]
    items: Sequence[Item]

    def without(self, at: int) -> Chunk:
        """Return all of it but the image number ``at``."""
        places = [*self.places[:at], *self.places[at + 1 :]]
        return Chunk(self.ticket, self.slot, places, [*self.items[:at], *self.items[at + 1 :]])
