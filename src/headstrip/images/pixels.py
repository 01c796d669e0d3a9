"""From a PIL image to the pixels that a network is given, up to where they stop being bytes.

Nothing here imports torch, so that processes which decode start fast and stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from headstrip.images.modes import as_picture, refuse_huge

if TYPE_CHECKING:
    from headstrip.images.preprocessing import Preprocessing
    from headstrip.images.reduced import Reduced

DecodeMode = Literal["exact", "fast"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    # Pillow's own is the exact one; torchvision takes it for both.
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


def to_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Do all steps of a preprocessing that come before the division.

    Args:
        image: An image; ``as_picture`` reads it.
        preprocessing: The steps.

    Returns:
        uint8 array (H, W, C), H and W those of ``preprocessing.crop``; bit for bit what
        ``preprocessing.transform()`` has after its ``PILToTensor``, channels last.

    Raises:
        PreprocessingError: The image has no pixels, too many after the resize, or none with an
            8-bit meaning.

    Example:
        >>> from headstrip import Preprocessing
        >>> half = Preprocessing(crop=(4, 4), resize=6, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> to_pixels(Image.new("L", (12, 12), 9), half)[0, 0].tolist()
        [9, 9, 9]
    """
    picture = as_picture(image, preprocessing)
    height, width = preprocessing.resized(picture.height, picture.width)
    if picture.size != (width, height):
        picture = picture.resize((width, height), _FILTERS[preprocessing.interpolation])
    shown = window(height, width, preprocessing)
    if shown != (0, 0, width, height):
        picture = picture.crop(shown)
    return on_canvas(np.asarray(picture), preprocessing)


def to_pixels_fast(reduced: Reduced, preprocessing: Preprocessing) -> np.ndarray:
    """Do what ``to_pixels`` does, on an image that was made smaller while it was decoded.

    Only what the crop shows is resized, which alone differs in a few last bits.

    Args:
        reduced: The image.
        preprocessing: The steps.

    Returns:
        uint8 array (H, W, C).

    Raises:
        PreprocessingError: As ``to_pixels`` raises it.
    """
    refuse_huge(reduced.height, reduced.width, preprocessing)
    height, width = preprocessing.resized(reduced.height, reduced.width)
    if (height, width) == (reduced.height, reduced.width):
        return to_pixels(reduced.image, preprocessing)
    left, upper, right, lower = window(height, width, preprocessing)
    x, y, far_x, far_y = reduced.box
    across, down = (far_x - x) / width, (far_y - y) / height
    # A product of floats may pass the edge by a last bit, which Pillow refuses.
    end_x, end_y = min(x + right * across, far_x), min(y + lower * down, far_y)
    box = (x + left * across, y + upper * down, end_x, end_y)
    size = (right - left, lower - upper)
    picture = as_picture(reduced.image, preprocessing)
    picture = picture.resize(size, _FILTERS[preprocessing.interpolation], box)
    return on_canvas(np.asarray(picture), preprocessing)


def window(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Return what the crop takes of a resized image: left, upper, right and lower."""
    upper, lower = _span(height, preprocessing.crop[0])
    left, right = _span(width, preprocessing.crop[1])
    return left, upper, right, lower


def _span(size: int, crop: int) -> tuple[int, int]:
    """Return where a central crop begins and ends in an axis: all of it where it is shorter.

    The arithmetic is that of torchvision's ``CenterCrop``, halves to even.
    """
    if size <= crop:
        return 0, size
    start = round((size - crop) / 2)
    return start, start + crop


def on_canvas(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Put an image in the middle of the crop, an odd pixel of border to the right and below.

    Args:
        pixels: uint8 array (height, width) or (height, width, C), no larger than the crop.
        preprocessing: Whose crop and fill.

    Returns:
        uint8 array (H, W, C), H and W those of the crop.
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
