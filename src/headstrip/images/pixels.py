"""Turn an image into the uint8 pixels for a network: all steps before the division.

Nothing here imports torch, so that the processes that decode start fast and stay small.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from headstrip.images.bands import Bands
from headstrip.images.decode import decoding_errors, open_image, turn_of, upright
from headstrip.images.modes import as_picture, refuse_huge

if TYPE_CHECKING:
    from headstrip.images.preprocessing import Preprocessing

DecodeMode = Literal["exact", "fast"]
Box = tuple[float, float, float, float]

MARGIN = 3.0
"""Each side of a reduced image is at least this many times as long as after the resize.

With a smaller factor the difference is visible: docs/reference/images.md has the measured cosines.
"""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    # Pillow's filter is the exact one, and torchvision uses it for both names.
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}

_T = Image.Transpose
_SWAP_SIDES = {_T.TRANSPOSE, _T.TRANSVERSE, _T.ROTATE_90, _T.ROTATE_270}
_MIRROR_X = {_T.FLIP_LEFT_RIGHT, _T.ROTATE_180, _T.ROTATE_270, _T.TRANSVERSE}
_MIRROR_Y = {_T.FLIP_TOP_BOTTOM, _T.ROTATE_180, _T.ROTATE_90, _T.TRANSVERSE}


def to_pixels(image: Image.Image | Bands, preprocessing: Preprocessing) -> np.ndarray:
    """Do all steps of a preprocessing that come before the division.

    Args:
        image: An image, which ``as_picture`` reads; or the bands of an image with other channels.
        preprocessing: The steps.

    Returns:
        uint8 array (H, W, C), H and W of ``preprocessing.crop``; bit for bit what
        ``preprocessing.transform()`` has after its ``PILToTensor``, channels last.

    Raises:
        PreprocessingError: The image has no pixels, too many after the resize, or pixels that do
            not convert to 8 bits.

    Example:
        >>> from headstrip import Preprocessing
        >>> half = Preprocessing(crop=(4, 4), resize=6, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> to_pixels(Image.new("L", (12, 12), 9), half)[0, 0].tolist()
        [9, 9, 9]
    """
    if isinstance(image, Bands):
        return _bands_to_pixels(image, preprocessing)
    picture = as_picture(image, preprocessing)
    height, width = preprocessing.resized(picture.height, picture.width)
    if picture.size != (width, height):
        picture = picture.resize((width, height), _FILTERS[preprocessing.interpolation])
    window = _window(height, width, preprocessing)
    if window != (0, 0, width, height):
        picture = picture.crop(window)
    return _on_canvas(np.asarray(picture), preprocessing)


def _bands_to_pixels(bands: Bands, preprocessing: Preprocessing) -> np.ndarray:
    """Apply ``to_pixels`` to each channel as to a grey image."""
    fill = preprocessing.fill or (0,) * preprocessing.channels
    parts = [
        to_pixels(plane, replace(preprocessing, mean=(0.0,), std=(1.0,), fill=(border,)))
        for plane, border in zip(bands.planes, fill, strict=True)
    ]
    return np.concatenate(parts, axis=-1)


@dataclass(frozen=True, slots=True)
class Reduced:
    """An upright image that may be smaller than the image in the file.

    Attributes:
        image: Its pixels.
        width: Width of the upright image in the file, in pixels.
        height: Height of the upright image in the file, in pixels.
        box: Where the whole picture is in ``image``: left, upper, right, lower. It is smaller than
            ``image`` if a side of the image in the file is not a multiple of the reduction.
    """

    image: Image.Image
    width: int
    height: int
    box: Box


def decode_reduced(data: bytes, preprocessing: Preprocessing) -> Reduced:
    """Read a JPEG; a large one at a half, a quarter or an eighth of its size.

    The decoder then computes only that many pixels (libjpeg's scaled inverse DCT).

    Args:
        data: All bytes of a JPEG file.
        preprocessing: The steps; each side of the reduced image is at least ``MARGIN`` times as
            long as after the resize.

    Raises:
        ImageError: The file cannot be read; the message is only the reason.
    """
    with decoding_errors():
        image = open_image(io.BytesIO(data))
        turn, (width, height) = turn_of(image), image.size
        if turn in _SWAP_SIDES:
            width, height = height, width
        box: Box = (0, 0, *image.size)
        if preprocessing.resize is not None and height and width:
            resized = preprocessing.resized(height, width)
            least = math.ceil(resized[1] * MARGIN), math.ceil(resized[0] * MARGIN)
            drafted = image.draft(None, least[::-1] if turn in _SWAP_SIDES else least)
            box = box if drafted is None else drafted[1]
        image.load()
        if turn is not None:
            box = _turned(box, image.size, turn)
        return Reduced(upright(image), width, height, box)


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes of a file begin like a JPEG."""
    return data[:2] == b"\xff\xd8"


def to_pixels_fast(reduced: Reduced, preprocessing: Preprocessing) -> np.ndarray:
    """Apply the steps of ``to_pixels`` to an image that was reduced while it was decoded.

    The function resizes only the part that the crop shows. This alone changes a few last bits.

    Returns:
        uint8 array (H, W, C).

    Raises:
        PreprocessingError: As in ``to_pixels``.
    """
    refuse_huge(reduced.height, reduced.width, preprocessing)
    height, width = preprocessing.resized(reduced.height, reduced.width)
    if (height, width) == (reduced.height, reduced.width):
        return to_pixels(reduced.image, preprocessing)
    left, upper, right, lower = _window(height, width, preprocessing)
    x, y, far_x, far_y = reduced.box
    across, down = (far_x - x) / width, (far_y - y) / height
    # By rounding, a product can be beyond the edge, which Pillow refuses.
    end_x, end_y = min(x + right * across, far_x), min(y + lower * down, far_y)
    box = (x + left * across, y + upper * down, end_x, end_y)
    size = (right - left, lower - upper)
    picture = as_picture(reduced.image, preprocessing)
    picture = picture.resize(size, _FILTERS[preprocessing.interpolation], box)
    return _on_canvas(np.asarray(picture), preprocessing)


def _turned(box: Box, size: tuple[int, int], turn: Image.Transpose) -> Box:
    """Return the position of a box after an image of the given size was turned."""
    left, upper, right, lower = box
    width, height = size
    if turn in _SWAP_SIDES:
        left, upper, right, lower = upper, left, lower, right
        width, height = height, width
    if turn in _MIRROR_X:
        left, right = width - right, width - left
    if turn in _MIRROR_Y:
        upper, lower = height - lower, height - upper
    return left, upper, right, lower


def _window(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Return the part of a resized image that the crop shows: left, upper, right and lower."""
    upper, lower = _span(height, preprocessing.crop[0])
    left, right = _span(width, preprocessing.crop[1])
    return left, upper, right, lower


def _span(size: int, crop: int) -> tuple[int, int]:
    """Return the start and the end of a central crop on one axis. A shorter axis stays whole.

    The arithmetic is that of torchvision's ``CenterCrop``, which rounds halves to even.
    """
    if size <= crop:
        return 0, size
    start = round((size - crop) / 2)
    return start, start + crop


def _on_canvas(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Put an image in the middle of the crop; an odd pixel of border is on the right and below.

    Args:
        pixels: uint8 array (height, width) or (height, width, C), at most as large as the crop.
        preprocessing: Has the crop and the fill.

    Returns:
        uint8 array (H, W, C), H and W of the crop.
    """
    height, width = preprocessing.crop
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[:2] == (height, width):
        return pixels
    fill = (0,) * preprocessing.channels if preprocessing.fill is None else preprocessing.fill
    canvas = np.empty((height, width, preprocessing.channels), np.uint8)
    canvas[...] = fill
    upper, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    canvas[upper : upper + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas
