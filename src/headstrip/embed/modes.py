"""What the pixels of a PIL image become: 8-bit RGB, or grey where a network takes one channel.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from headstrip.errors import PreprocessingError

if TYPE_CHECKING:
    from headstrip.preprocessing import Preprocessing

_MODES = {1: "L", 3: "RGB"}
_WIDE = (1 << 16) - 1


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image to the mode that has so many channels.

    As Pillow does it: transparency is dropped, and grey, palettes, CMYK and YCbCr become RGB.
    16-bit grey is scaled to 8 bits, 65535 to 255; pixels of mode ``I`` count as 16-bit.

    Args:
        image: An image whose pixels are read.
        channels: 3 for RGB, 1 for grey.

    Returns:
        An image of mode RGB or L; the same one where nothing is to be done.

    Raises:
        PreprocessingError: No image has so many channels, or its pixels have no 8-bit meaning.
    """
    mode = _MODES.get(channels)
    if mode is None:
        raise PreprocessingError(
            f"No image has the {channels} channels that the preprocessing takes. Pass a uint8 "
            f"tensor ({channels}, height, width)."
        )
    if image.mode == mode:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in {"P", "PA"}:
        # Pillow warns when it drops a palette's transparency in one step.
        image = image.convert("RGBA")
    if image.mode == "F":
        raise _unconvertible(image, "whose range is not known")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise _unconvertible(image, f"which Pillow does not convert to {mode}") from error


def refuse_huge(height: int, width: int, preprocessing: Preprocessing) -> None:
    """Refuse an image without pixels, and a strip that a resize would make fill the memory.

    Raises:
        PreprocessingError: It has no pixels, or would be resized to more than
            ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    if not height or not width:
        raise PreprocessingError(f"The image has no pixels: it is {width} wide and {height} high.")
    grows, limit = isinstance(preprocessing.resize, int), Image.MAX_IMAGE_PIXELS
    if not (grows or preprocessing.fit == "cover") or limit is None:
        return
    shorter, longer = sorted(preprocessing.resized(height, width))
    if shorter * longer > limit:
        raise PreprocessingError(
            f"The image is {width} wide and {height} high: with its shorter side at {shorter} it "
            f"would have more than {limit} pixels. Crop it."
        )


def _to_8_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > _WIDE:
        raise _unconvertible(image, f"which are not all within 0 and {_WIDE}")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _unconvertible(image: Image.Image, why: str) -> PreprocessingError:
    return PreprocessingError(
        f"The image has pixels of mode {image.mode!r}, {why}. Convert it to 8-bit RGB."
    )
