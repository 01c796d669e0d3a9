"""JPEGs made smaller while they are decoded, by leaving out what a smaller picture cannot show.

Nothing here imports torch.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from headstrip.images.decode import decoding_errors, open_bytes, open_image, turn_of, upright
from headstrip.images.modes import as_picture

if TYPE_CHECKING:
    from headstrip.images.preprocessing import Preprocessing

Box = tuple[float, float, float, float]

MARGIN = 3.0
"""How much larger than after the resize a reduced image is at least, each side.

Below it what was left out shows: docs/reference/images.md has the cosines that this was chosen by.
"""

_T = Image.Transpose
SIDES_SWAPPED = {_T.TRANSPOSE, _T.TRANSVERSE, _T.ROTATE_90, _T.ROTATE_270}
_LEFT_FROM_FAR = {_T.FLIP_LEFT_RIGHT, _T.ROTATE_180, _T.ROTATE_270, _T.TRANSVERSE}
_UPPER_FROM_FAR = {_T.FLIP_TOP_BOTTOM, _T.ROTATE_180, _T.ROTATE_90, _T.TRANSVERSE}


@dataclass(frozen=True, slots=True)
class Reduced:
    """An image, upright, that may be smaller than its file's.

    Attributes:
        image: Its pixels.
        width: Pixels of the file's image, as shown.
        height: Pixels of the file's image, as shown.
        box: Where the whole picture is in ``image``: left, upper, right, lower; less than all of
            it where a side of the file's image is no multiple of the reduction.
    """

    image: Image.Image
    width: int
    height: int
    box: Box


def decode_reduced(data: bytes, preprocessing: Preprocessing) -> Reduced:
    """Read the bytes of an image file, a large JPEG at a half, a quarter or an eighth of its size.

    The decoder then computes that many pixels only (libjpeg's scaled inverse DCT). All other
    images are read as ``as_picture`` reads them.

    Args:
        data: All bytes of the file.
        preprocessing: What the image is for: the reduced image is at least ``MARGIN`` times as
            large as after the resize.

    Returns:
        The image.

    Raises:
        ImageError: The file cannot be read; the message is the reason and nothing else.
        PreprocessingError: Its pixels cannot be used.
    """
    with decoding_errors():
        if is_jpeg(data):
            return _read_jpeg(data, preprocessing)
        image = as_picture(open_bytes(data), preprocessing)
        return Reduced(image, *image.size, (0, 0, *image.size))


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes of a file begin as a JPEG does."""
    return data[:2] == b"\xff\xd8"


def _read_jpeg(data: bytes, preprocessing: Preprocessing) -> Reduced:
    image = open_image(io.BytesIO(data))
    turn, (width, height) = turn_of(image), image.size
    if turn in SIDES_SWAPPED:
        width, height = height, width
    box: Box = (0, 0, *image.size)
    least = _least(height, width, preprocessing)
    if least is not None:
        drafted = image.draft(None, least[::-1] if turn in SIDES_SWAPPED else least)
        box = box if drafted is None else drafted[1]
    image.load()
    if turn is not None:
        box = _turned(box, image.size, turn)
    return Reduced(upright(image), width, height, box)


def _least(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int] | None:
    """Return the least width and height that the resize can do with."""
    if preprocessing.resize is None or not height or not width:
        return None
    resized = preprocessing.resized(height, width)
    return math.ceil(resized[1] * MARGIN), math.ceil(resized[0] * MARGIN)


def _turned(box: Box, size: tuple[int, int], turn: Image.Transpose) -> Box:
    """Return where a box is in an image that was turned; ``size`` is its size before that."""
    left, upper, right, lower = box
    width, height = size
    if turn in SIDES_SWAPPED:
        left, upper, right, lower = upper, left, lower, right
        width, height = height, width
    if turn in _LEFT_FROM_FAR:
        left, right = width - right, width - left
    if turn in _UPPER_FROM_FAR:
        upper, lower = height - lower, height - upper
    return left, upper, right, lower
