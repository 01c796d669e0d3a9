"""The worker process that decodes: names of images in, uint8 pixels out through shared memory.

``worker_process`` starts it. It imports neither torch nor the user's main module.
"""

from __future__ import annotations

import hashlib
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

from headstrip.embed.decoding.shared_memory import Memory, attach
from headstrip.embed.pages import count_pages, page_of
from headstrip.errors import HeadstripError
from headstrip.images.bands import has_bands, read_bands
from headstrip.images.decode import decoding_errors
from headstrip.images.modes import in_channels, read_samples, refuse_huge
from headstrip.images.pixels import (
    DecodeMode,
    decode_reduced,
    is_jpeg,
    to_pixels,
    to_pixels_fast,
)

if TYPE_CHECKING:
    from headstrip.embed.sources import Item, Reader
    from headstrip.images.preprocessing import Preprocessing

_SECONDS_BETWEEN_CHECKS = 1.0
_LONGEST_ALARM = 10.0**6


class ImageResult(NamedTuple):
    """What decoding one image gave, except its pixels.

    Attributes:
        width: Pixels of the upright image, None where the image could not be read.
        height: Pixels of the upright image, None where the image could not be read.
        error: Why the image has no pixels, None where it has.
        checksum: ``checksum_of`` the image's bytes, None where they could not be read.
        pages: Pages or frames of the image's file; 1 where the image is one page of a file.
    """

    width: int | None
    height: int | None
    error: str | None
    checksum: str | None
    pages: int = 1


class DecodeRequest(NamedTuple):
    """Images to decode, and where in the shared memory their pixels go.

    Attributes:
        slot: Index of the batch in the shared memory.
        positions: Index of each image in the batch.
        items: The images.
    """

    slot: int
    positions: Sequence[int]
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker process gets when it starts.

    Attributes:
        parent: Id of the process that the worker ends with.
        number: The worker's row of the counters.
        memory: Where the counters and the slots are.
        reader: A pickled ``Reader``.
        preprocessing: The steps from an image to the input of a network.
        mode: The decode mode.
        timeout: Seconds that one image may take; then the parent kills the worker.
        max_pixels: Pillow's limit of pixels in the parent.
        truncated: Whether Pillow reads truncated files in the parent.
    """

    parent: int
    number: int
    memory: Memory
    reader: bytes
    preprocessing: Preprocessing
    mode: DecodeMode
    timeout: float
    max_pixels: int | None
    truncated: bool


def checksum_of(data: bytes) -> str:
    """Return the 128-bit BLAKE2b hash (RFC 7693) of an image's bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode_into(
    pixels: np.ndarray, reader: Reader, item: Item, preprocessing: Preprocessing, mode: DecodeMode
) -> ImageResult:
    """Read one image and write its pixels.

    Args:
        pixels: uint8 array (H, W, C) to write to; zeros afterwards where the image is bad.
        reader: Reads the bytes of the image.
        item: The image.
        preprocessing: The steps; the function does all up to the division.
        mode: "fast" decodes a large JPEG at a fraction of its size.

    Returns:
        The size of the image, or why headstrip cannot use it. A bad image raises nothing.
    """
    width = height = checksum = None
    pages = 1
    try:
        with decoding_errors():
            data = reader.read(item)
            checksum = checksum_of(data)
            if mode == "fast" and is_jpeg(data):
                reduced = decode_reduced(data, preprocessing)
                width, height = reduced.width, reduced.height
                pixels[...] = to_pixels_fast(reduced, preprocessing)
            elif has_bands(data, preprocessing, page := max(0, item.page - 1)):
                pages = 1 if item.page else count_pages(data, exact=False)
                bands = read_bands(data, preprocessing, page)
                width, height = bands.size
                pixels[...] = to_pixels(bands, preprocessing)
            else:
                pages = 1 if item.page else count_pages(data, exact=False)
                samples = read_samples(page_of(data, item.page), preprocessing)
                width, height = samples.image.size
                refuse_huge(height, width, preprocessing)
                pixels[...] = to_pixels(in_channels(samples, preprocessing), preprocessing)
    except HeadstripError as error:
        pixels[...] = 0
        return ImageResult(width, height, str(error), checksum)
    return ImageResult(width, height, None, checksum, pages)


def main() -> None:
    """Decode what standard input requests until it ends.

    Both directions are pickled. The parent sends a ``WorkerSetup``; the worker answers None, or why
    it cannot use the reader. Then the parent sends ``DecodeRequest``s, and the worker answers each
    with a list of ``ImageResult``.
    """
    requests, answers = sys.stdin.buffer, _take_standard_output()
    setup: WorkerSetup = pickle.load(requests)
    threading.Thread(target=_end_with, args=(setup.parent,), daemon=True).start()
    Image.MAX_IMAGE_PIXELS = setup.max_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = setup.truncated
    try:
        reader = pickle.loads(setup.reader)
    except Exception as error:
        # The class of the reader is the caller's, and unpickling it runs the caller's code.
        _answer(answers, f"{type(error).__name__}: {error}")
        return
    Image.init()
    _answer(answers, None)
    _serve(setup, reader, requests, answers)


def _serve(setup: WorkerSetup, reader: Reader, requests: BinaryIO, answers: BinaryIO) -> None:
    counters, slots = attach(setup.memory)
    counter = counters[setup.number]
    while True:
        try:
            request: DecodeRequest = pickle.load(requests)
        except EOFError:
            return
        results = []
        for position, item in zip(request.positions, request.items, strict=True):
            _set_alarm(2 * setup.timeout + 5)
            counter[0] += 1
            pixels = slots[request.slot, position]
            results.append(decode_into(pixels, reader, item, setup.preprocessing, setup.mode))
            counter[1] += 1
        _set_alarm(0)
        _answer(answers, results)


def _answer(answers: BinaryIO, answer: Any) -> None:
    pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
    answers.flush()


def _take_standard_output() -> BinaryIO:
    """Keep standard output for the answers; what a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _set_alarm(seconds: float) -> None:
    """Let the system end this process should the parent be gone and the decoder never return."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST_ALARM))


def _end_with(parent: int) -> None:
    """End with the parent, even if the main thread hangs or another child keeps the pipe open."""
    while os.name != "posix" or os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    os._exit(1)
