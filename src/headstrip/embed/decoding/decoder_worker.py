"""The process that decodes: names in, uint8 pixels out through memory that is shared.

It is started by ``decoder_process`` and imports neither torch nor the user's main module.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from headstrip.embed.decoding.checksum import checksum_of
from headstrip.embed.decoding.shared_memory import Memory, attach
from headstrip.embed.pages import count_pages, page_of
from headstrip.errors import HeadstripError
from headstrip.images.decode import reasons
from headstrip.images.modes import in_channels, read_samples, refuse_huge
from headstrip.images.pixels import Route, to_pixels, to_pixels_fast
from headstrip.images.reduced import decode_reduced, is_jpeg

if TYPE_CHECKING:
    from headstrip.embed.sources import Item, Reader
    from headstrip.images.preprocessing import Preprocessing

_LOOK = 1.0
_LONGEST_ALARM = 10.0**6


class Outcome(NamedTuple):
    """What became of one image.

    Attributes:
        width: Pixels as shown, None where the image could not be read.
        height: Pixels as shown, None where the image could not be read.
        error: Why there are no pixels of it, None where there are.
        checksum: What ``checksum_of`` makes of its bytes, None where they could not be read.
        pages: Pages or frames of its file; 1 where it is itself one of them.
    """

    width: int | None
    height: int | None
    error: str | None
    checksum: str | None
    pages: int = 1


class Order(NamedTuple):
    """Images to decode, and where in the shared memory each goes."""

    slot: int
    places: Sequence[int]
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a process which decodes is told at its start.

    Attributes:
        parent: Id of the process that it ends with.
        number: Its row of the counters.
        memory: Where counters and slots are.
        reader: A pickled ``Reader``.
        preprocessing: What the pixels are for.
        route: Whether large JPEGs are made smaller while they are decoded.
        timeout: Seconds after which the parent ends it.
        max_pixels: Pillow's limit in the parent.
        truncated: Whether the parent has Pillow read what there is of a torn file.
    """

    parent: int
    number: int
    memory: Memory
    reader: bytes
    preprocessing: Preprocessing
    route: Route
    timeout: float
    max_pixels: int | None
    truncated: bool


def read_into(
    pixels: np.ndarray, reader: Reader, item: Item, preprocessing: Preprocessing, route: Route
) -> Outcome:
    """Read one image and write its pixels.

    Args:
        pixels: uint8 array (H, W, C); zeros afterwards where the image is bad.
        reader: What has the bytes.
        item: Which image.
        preprocessing: The steps, all but those that need floating point are done.
        route: Whether a large JPEG is made smaller while it is decoded.

    Returns:
        Its size as shown, or why it cannot be used. Nothing is raised.
    """
    width = height = checksum = None
    pages = 1
    try:
        with reasons():
            data = reader.read(item)
            checksum = checksum_of(data)
            if route == "fast" and is_jpeg(data):
                reduced = decode_reduced(data, preprocessing)
                width, height = reduced.width, reduced.height
                pixels[...] = to_pixels_fast(reduced, preprocessing)
            else:
                pages = 1 if item.page else count_pages(data, exact=False)
                samples = read_samples(page_of(data, item.page), preprocessing)
                width, height = samples.image.size
                refuse_huge(height, width, preprocessing)
                pixels[...] = to_pixels(in_channels(samples, preprocessing), preprocessing)
    except HeadstripError as error:
        pixels[...] = 0
        return Outcome(width, height, str(error), checksum)
    return Outcome(width, height, None, checksum, pages)


def main() -> None:
    """Decode what standard input orders until it ends.

    What comes in and goes out is pickled: a ``Setup``, answered by None or by why nothing can be
    read; then ``Order``s, each answered by a list of ``Outcome``.
    """
    orders, answers = sys.stdin.buffer, _take_standard_output()
    setup: Setup = pickle.load(orders)
    threading.Thread(target=_end_with, args=(setup.parent,), daemon=True).start()
    Image.MAX_IMAGE_PIXELS = setup.max_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = setup.truncated
    try:
        reader = pickle.loads(setup.reader)
    except Exception as error:
        _answer(answers, f"{type(error).__name__}: {error}")
        return
    Image.init()
    _answer(answers, None)
    _serve(setup, reader, orders, answers)


def _serve(setup: Setup, reader: Reader, orders: BinaryIO, answers: BinaryIO) -> None:
    counters, slots = attach(setup.memory)
    counter = counters[setup.number]
    while True:
        try:
            order: Order = pickle.load(orders)
        except EOFError:
            return
        outcomes = []
        for place, item in zip(order.places, order.items, strict=True):
            _set_alarm(2 * setup.timeout + 5)
            counter[0] += 1
            pixels = slots[order.slot, place]
            outcomes.append(read_into(pixels, reader, item, setup.preprocessing, setup.route))
            counter[1] += 1
        _set_alarm(0)
        _answer(answers, outcomes)


def _answer(answers: BinaryIO, answer: Any) -> None:
    pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
    answers.flush()


def _take_standard_output() -> BinaryIO:
    """Keep standard output for the answers: what a library prints goes where errors go."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _set_alarm(seconds: float) -> None:
    """Have the system end this process, should the parent be gone and the decoder never return."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST_ALARM))


def _end_with(parent: int) -> None:
    """End with the parent, though the main thread may hang or another child hold the pipe."""
    while os.name != "posix" or os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)
