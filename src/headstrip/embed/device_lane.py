"""JPEGs decoded and resized where the network is: on a GPU by nvJPEG, on the CPU by libjpeg-turbo.

Both are torchvision's ``decode_jpeg``. What it is not known to read right, or does not read, goes
to the processes that decode, image by image.
"""

from __future__ import annotations

import io
import queue
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import get_sampling
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from headstrip.embed.checksum import checksum_of
from headstrip.embed.decode import open_image, reasons, turn_of
from headstrip.embed.decoder_worker import Outcome
from headstrip.embed.engines.memory import OutOfMemoryError, is_out_of_memory
from headstrip.embed.modes import refuse_huge
from headstrip.embed.pixels import on_canvas, window
from headstrip.embed.reduced import SIDES_SWAPPED
from headstrip.errors import HeadstripError, PreprocessingError, one_line
from headstrip.interrupting import interrupts_held

if TYPE_CHECKING:
    from headstrip.embed.sources import Item, Reader
    from headstrip.embed.tickets import Chunk
    from headstrip.preprocessing import Preprocessing

_INTERPOLATIONS = {
    "bilinear": functional.InterpolationMode.BILINEAR,
    "bicubic": functional.InterpolationMode.BICUBIC,
}
"""Those that torch computes with antialiasing, as Pillow does."""

_SAMPLINGS = (0, 1, 2)
"""4:4:4, 4:2:2 and 4:2:0, in Pillow's numbers: what every decoder reads."""

_AT_ONCE, _MOST_PIXELS = 16, 1 << 24
"""Images that are on the device at once, and pixels of each of them, at most."""

_PATIENCE, _MOMENT = 2.0, 1.0
"""Seconds that the end of the thread, and memory, is waited for."""

_END = b"\xff\xd9"
_T = Image.Transpose
_TURNED: dict[Image.Transpose, Callable[[Tensor], Tensor]] = {
    _T.FLIP_LEFT_RIGHT: lambda image: image.flip(2),
    _T.FLIP_TOP_BOTTOM: lambda image: image.flip(1),
    _T.ROTATE_180: lambda image: image.flip(1, 2),
    _T.TRANSPOSE: lambda image: image.transpose(1, 2),
    _T.TRANSVERSE: lambda image: image.transpose(1, 2).flip(1, 2),
    _T.ROTATE_90: lambda image: image.rot90(1, (1, 2)),
    _T.ROTATE_270: lambda image: image.rot90(3, (1, 2)),
}


@dataclass(frozen=True, slots=True)
class _Head:
    """What the header of a JPEG says."""

    data: bytes
    checksum: str
    width: int
    height: int
    turn: Image.Transpose | None


def check_device_route(preprocessing: Preprocessing) -> None:
    """Refuse a preprocessing whose resize torch cannot do as Pillow does.

    Raises:
        PreprocessingError: It is for clips, for grey images, or interpolates otherwise.
    """
    known = preprocessing.channels == 3 and preprocessing.interpolation in _INTERPOLATIONS
    if preprocessing.frames is not None or not known:
        raise PreprocessingError(
            f"The route 'device' resizes RGB images by {' or '.join(_INTERPOLATIONS)}, and the "
            f"preprocessing has {preprocessing.channels} channels and interpolates by "
            f"{preprocessing.interpolation}. Use the route 'exact'."
        )


class Came(NamedTuple):
    """An image that came out.

    Attributes:
        pixels: uint8 array (H, W, 3).
        outcome: Its size as shown, and the checksum of its bytes.
    """

    pixels: np.ndarray
    outcome: Outcome


def device_pixels(
    datas: Sequence[bytes], preprocessing: Preprocessing, place: torch.device
) -> list[Came | None]:
    """Decode JPEGs on a device, and do all steps of a preprocessing before the division.

    Args:
        datas: Encoded images.
        preprocessing: The steps; see ``check_device_route``.
        place: Where.

    Returns:
        One for each, H and W those of ``preprocessing.crop``; None for what is no plain JPEG, or
        did not come out. The pixels differ from those of ``to_pixels`` by a few of 255: torch's
        resize rounds otherwise, and nvJPEG's transform too.
    """
    heads = {at: head for at, data in enumerate(datas) if (head := _head_of(data, preprocessing))}
    found: list[Came | None] = [None] * len(datas)
    with torch.inference_mode():
        images = zip(heads.items(), _decoded([*heads.values()], place), strict=True)
        # All on the device before the first is waited for.
        cut = [(at, head, _cut(head, image, preprocessing)) for (at, head), image in images
               if image is not None]  # fmt: skip
        for at, head, image in cut:
            pixels = on_canvas(image.permute(1, 2, 0).cpu().numpy(), preprocessing)
            found[at] = Came(pixels, Outcome(*_shown(head), None, head.checksum))
    return found


class DeviceLane:
    """A thread that decodes some images of each batch where the network is."""

    def __init__(
        self, reader: Reader, preprocessing: Preprocessing, place: torch.device, percent: int
    ) -> None:
        """Take the parts; ``start`` starts it.

        Args:
            reader: What has the images' bytes.
            preprocessing: The steps; see ``check_device_route``.
            place: Where the network is.
            percent: How many of a hundred images are decoded there. Their paths tell which: the
                bits of an image depend on no other one, nor on what else is being done.

        Raises:
            PreprocessingError: The preprocessing is not for this route.
        """
        check_device_route(preprocessing)
        self._percent = percent
        self._reader, self._preprocessing, self._place = reader, preprocessing, place
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def start(
        self, slots: np.ndarray, give: Callable[[Chunk], None], failed: Callable[[Any], None]
    ) -> None:
        """Start the thread.

        Args:
            slots: uint8 array (slots, batch_size, H, W, C) that the pixels are written to.
            give: Called with what others have to decode.
            failed: Called with what ends the thread.
        """
        self._slots, self._give, self._failed = slots, give, failed
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def takes(self, item: Item) -> bool:
        """Whether an image is decoded here, if it can be."""
        return zlib.crc32(item.path.encode()) % 100 < self._percent

    def put(self, chunk: Chunk) -> None:
        """Have images decoded."""
        if chunk.items:
            self._chunks.put(chunk)

    def close(self) -> None:
        """Have the thread end after the image that it is at; one that reads for ever is left."""
        self._is_closed = True
        self._chunks.put(None)
        if self._thread is not None:
            with interrupts_held():
                self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            # The cores are the network's.
            torch.set_num_threads(1)
            with _own_stream(self._place):
                while (chunk := self._chunks.get()) is not None:
                    self._fill(chunk)
        except BaseException as error:
            self._failed(error)

    def _fill(self, chunk: Chunk) -> None:
        for start in range(0, len(chunk.items), _AT_ONCE):
            if self._is_closed:
                return
            self._fill_some(replace(
                chunk, places=chunk.places[start : start + _AT_ONCE],
                items=chunk.items[start : start + _AT_ONCE],
            ))  # fmt: skip

    def _fill_some(self, chunk: Chunk) -> None:
        datas = [b"" if self._is_unwanted(chunk) else self._read(item) for item in chunk.items]
        left = chunk
        # From the last one, so that the numbers of those before it stay.
        for at, came in reversed([*enumerate(self._came(datas))]):
            if came is not None:
                self._slots[chunk.slot, chunk.places[at]] = came.pixels
                chunk.ticket.put(chunk.places[at], came.outcome)
                left = left.without(at)
        if left.items:
            self._give(left)

    def _is_unwanted(self, chunk: Chunk) -> bool:
        return self._is_closed or chunk.ticket.is_released

    def _came(self, datas: Sequence[bytes]) -> list[Came | None]:
        try:
            return device_pixels(datas, self._preprocessing, self._place)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Another program may have had it for a moment. The processes would give other bits.
        time.sleep(_MOMENT)
        try:
            return [device_pixels([data], self._preprocessing, self._place)[0] for data in datas]
        except RuntimeError as error:
            raise OutOfMemoryError(
                f"The memory of {self._place} ran out while JPEGs were decoded there "
                f"({one_line(error)[:200]}). Use a smaller --batch-size, or the route 'exact'."
            ) from error

    def _read(self, item: Item) -> bytes:
        try:
            return self._reader.read(item)
        except Exception:
            # Who reads it next says why.
            return b""


def _head_of(data: bytes, preprocessing: Preprocessing) -> _Head | None:
    """Read the header of a plain JPEG that is whole; None for all else."""
    if data[:2] != b"\xff\xd8" or data[-2:] != _END:
        return None
    try:
        with reasons():
            image: Any = open_image(io.BytesIO(data))
            plain = image.format == "JPEG" and image.mode == "RGB"
            if not plain or get_sampling(image) not in _SAMPLINGS:
                return None
            # A progressive one may have any number of passes, and nobody can end a decoder here.
            if image.info.get("progressive") or image.width * image.height > _MOST_PIXELS:
                return None
            if image.info.get("adobe_transform", 1) != 1:
                return None
            width, height = image.size
            head = _Head(data, checksum_of(data), width, height, turn_of(image))
            refuse_huge(*_shown(head)[::-1], preprocessing)
            return head
    except HeadstripError:
        return None


def _shown(head: _Head) -> tuple[int, int]:
    """Return width and height as shown."""
    size = (head.width, head.height)
    return size[::-1] if head.turn in SIDES_SWAPPED else size


def _decoded(heads: Sequence[_Head], place: torch.device) -> list[Tensor | None]:
    """Decode all at once, or one by one where that fails; None for what does not come out."""
    encoded = [torch.frombuffer(bytearray(head.data), dtype=torch.uint8) for head in heads]
    try:
        images: list[Any] = decode_jpeg(encoded, ImageReadMode.RGB, device=place) if heads else []
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        images = [_alone(each, place) for each in encoded]
    return [
        image if image is not None and image.shape == (3, head.height, head.width) else None
        for head, image in zip(heads, images, strict=True)
    ]


def _alone(encoded: Tensor, place: torch.device) -> Any:
    try:
        return decode_jpeg([encoded], ImageReadMode.RGB, device=place)[0]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None


def _cut(head: _Head, image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn, resize and crop an image (3, height, width)."""
    if head.turn is not None:
        image = _TURNED[head.turn](image)
    height, width = preprocessing.resized(*image.shape[1:])
    if (height, width) != tuple(image.shape[1:]):
        image = functional.resize_image(
            image, [height, width], _INTERPOLATIONS[preprocessing.interpolation], antialias=True
        )
    left, upper, right, lower = window(height, width, preprocessing)
    return image[:, upper:lower, left:right]


def _own_stream(place: torch.device) -> AbstractContextManager[Any]:
    """Have a GPU decode beside the network, not after it."""
    if place.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
    return torch.cuda.stream(stream)
