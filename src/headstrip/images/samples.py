"""Read the pixels of an image as the file stores them, and find the values of black and white.

The result is the same for an open file and for an image whose pixels Pillow has already read.
Nothing here imports torch.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile

from headstrip.errors import ImageError, PreprocessingError
from headstrip.images import tiff
from headstrip.images.decode import bytes_of, open_bytes, upright
from headstrip.images.preprocessing import is_usable_range
from headstrip.images.size_limit import opened_file

Range = tuple[float, float]

_16_BITS = (0, (1 << 16) - 1)
_COLOURS = {"RGB": 3, "RGBA": 3, "CMYK": 4}
"""Modes in which Pillow reads 16-bit colour, with the number of bands that are not alpha."""

_HEAD = 1 << 12
_SIZ = b"\xff\x4f\xff\x51"


@dataclass(frozen=True, slots=True)
class Scale:
    """The meaning of an image's values that are signed or have more than 8 bits.

    Attributes:
        kind: Their type in a few words, such as "16 bits".
        whole: The smallest and the largest value of the type; None for floating point.
        stated: Black and white as the file states them, None if it states nothing.
        is_inverted: Whether the smallest value is white.
        is_colour: Whether the image has colour: then Pillow keeps the upper 8 bits of each value.
        unit: The factor by which Pillow multiplied the file's values; 0 if it is not known.
    """

    kind: str
    whole: Range | None
    stated: Range | None = None
    is_inverted: bool = False
    is_colour: bool = False
    unit: float = 1.0


@dataclass(frozen=True, slots=True)
class Samples:
    """An upright image with its pixels read, in the mode that Pillow gives it.

    Attributes:
        image: The pixels.
        scale: The meaning of their values, None if these have at most 8 bits and no sign.
        deep: uint16 array (height, width, bands) of a 16-bit colour image, None if the upper 8
            bits are enough or the lower ones are lost.
        key: The transparent colour of a grey or RGB image, in the values of ``deep`` or else of
            ``image``; None if it has none.
    """

    image: Image.Image
    scale: Scale | None = None
    deep: np.ndarray | None = None
    key: tuple[int, ...] | None = None


def samples_of(image: Image.Image, *, is_range_given: bool) -> Samples:
    """Read the pixels of an image, turned as its EXIF orientation says.

    Args:
        image: An image. If it is an open file, this reads its pixels.
        is_range_given: Whether the caller names black and white, which needs all bits of colour.

    Raises:
        PreprocessingError: The image is a TIFF of more channels than headstrip reads.
        Exception: Any error of Pillow for a damaged file; see ``decoding_errors``.
    """
    tags = tiff.tags_of(image)
    if (excess := tiff.excess_channels(tags)) is not None:
        raise PreprocessingError(f"The image cannot be used: {excess}")
    scale, deep, key = _scale_of_file(image), None, _transparent_colour(image)
    if scale is not None and scale.is_colour:
        if tiff.number(tags, tiff.PLANES, 1) == 2:
            raise PreprocessingError(
                "The image is a TIFF of 16-bit colour that is stored plane by plane, which Pillow "
                "misreads. Save it with interleaved channels (planar configuration 1)."
            )
        is_key_deep = key is not None and image.mode == "RGB"
        if is_range_given or scale.stated or is_key_deep or image.format == "PPM":
            deep = _deep(image)
    image = upright(image)
    return Samples(image, scale or _scale_of_mode(image.mode), deep, key)


def _transparent_colour(image: Image.Image) -> tuple[int, ...] | None:
    """Return the transparent colour that a file names, in the values that Pillow gives.

    Pillow keeps the colour of a PNG as it is stored, but scales grey of 2 and 4 bits to 8. A copy
    of such an image does not show that the grey had fewer than 8 bits.
    """
    named = image.info.get("transparency")
    key = tuple(named) if isinstance(named, (tuple, list)) else (named,)
    if image.mode == "P" or not all(isinstance(part, int) for part in key):
        return None
    if image.format == "PNG" and image.mode in {"L", "RGB"}:
        bits = _bits_of_png(image) or (16 if max(key) > 255 else 8)
        most = (1 << bits) - 1
        # The format ignores the higher bits of the stored values.
        return tuple((part & most) * max(1, 255 // most) for part in key)
    return key


def _scale_of_file(image: Image.Image) -> Scale | None:
    """Read what an open file says about its values."""
    tags = tiff.tags_of(image)
    if tags:
        return _scale_of_tiff(image, tags)
    if image.format == "PPM":
        return _scale_of_ppm(image)
    if image.mode in _COLOURS and _is_deep_colour(image):
        return Scale("16 bits", _16_BITS, is_colour=True)
    return Scale("16 bits", _16_BITS) if image.mode == "I" and image.format == "PNG" else None


def _scale_of_ppm(image: Image.Image) -> Scale | None:
    """Read the largest value that a PPM or PGM states; Pillow scales the values by it."""
    largest = _largest_of_ppm(image)
    if image.mode == "I" and largest is None:
        return Scale("16 bits", _16_BITS, unit=0.0)
    if image.mode not in {"I", "RGB"} or largest is None or largest <= 255:
        return None
    most = _16_BITS[1]
    stated = (0, largest) if largest < most else None
    return Scale("16 bits", _16_BITS, stated, is_colour=image.mode == "RGB", unit=most / largest)


def _largest_of_ppm(image: Image.Image) -> int | None:
    """Return the largest value that the header states, None if the header is gone."""
    opened: Any = image
    if not getattr(image, "tile", None):
        try:
            opened = PpmImageFile(io.BytesIO(_head_of(image)))
        except (SyntaxError, ValueError):
            return None
        if opened.size != image.size:
            return None
    args = opened.tile[0][3]
    if isinstance(args, tuple):
        return int(args[1])
    return _16_BITS[1] if args == "I;16B" else 255


def _scale_of_mode(mode: str) -> Scale | None:
    """Return the meaning of a mode's values, for an image whose file says no more."""
    if mode.startswith("I;16"):
        return Scale("16 bits", _16_BITS)
    if mode == "I":
        return Scale("32 bits, signed", (-(1 << 31), (1 << 31) - 1))
    return Scale("floating point", None) if mode == "F" else None


def _scale_of_tiff(image: Image.Image, tags: Any) -> Scale | None:
    is_colour = image.mode in _COLOURS
    bits = tiff.number(tags, tiff.BITS, 1)
    is_signed = tiff.number(tags, tiff.FORMAT, tiff.UNSIGNED) == tiff.SIGNED
    # Pillow reads signed bytes into a mode of unsigned ones.
    is_signed_bytes = image.mode == "L" and bits == 8 and is_signed
    is_deep = image.mode in {"I", "F"} or image.mode.startswith("I;16") or (is_colour and bits > 8)
    if not (is_deep or is_signed_bytes):
        return None
    photometric = tiff.number(tags, tiff.PHOTOMETRIC, tiff.WHITE_IS_ZERO)
    is_inverted = photometric == tiff.WHITE_IS_ZERO and not is_colour
    if image.mode == "F":
        return Scale("floating point", None, _stated(tags, None, 1), is_inverted)
    # Pillow reads 12-bit values unchanged into 16 bits.
    half = 1 << (bits - 1)
    whole = (-half, half - 1) if is_signed else (0, 2 * half - 1)
    kind = f"{bits} bits{', signed' if is_signed else ''}"
    colours = _COLOURS.get(image.mode, 1)
    stated = whole if bits not in {8, 16, 32} else _stated(tags, whole, colours)
    return Scale(kind, whole, stated, is_inverted, is_colour)


def _stated(tags: Any, whole: Range | None, colours: int) -> Range | None:
    """Return the range that the tags of a TIFF state, None if it equals that of the type."""
    largest = [tags[tag] for tag in (tiff.SMAX_VALUE, tiff.MAX_VALUE) if tag in tags]
    smallest = [tags[tag] for tag in (tiff.SMIN_VALUE, tiff.MIN_VALUE) if tag in tags]
    if not largest or (whole is None and not smallest):
        return None
    black = _bound_of(smallest[0], min, colours) if smallest else (whole or (0.0, 0.0))[0]
    white = _bound_of(largest[0], max, colours)
    return (black, white) if is_usable_range(black, white) and (black, white) != whole else None


def _bound_of(value: Any, choose: Any, colours: int) -> float:
    """Choose the smallest or largest of a tag's values for the channels, without alpha."""
    return float(choose(value[:colours]) if isinstance(value, tuple) else value)


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether a file that is open, or was read, has more than 8 bits per channel."""
    if image.format == "JPEG2000":
        return _bits_of_jpeg_2000(image) > 8
    if image.format == "PNG" and (bits := _bits_of_png(image)):
        return bits > 8
    key = image.info.get("transparency")
    return isinstance(key, tuple) and max(key) > 255


def _bits_of_png(image: Image.Image) -> int:
    """Return the bits of a value in a PNG, 0 if its file is gone."""
    return int.from_bytes(_head_of(image)[24:25], "big")


def _bits_of_jpeg_2000(image: Image.Image) -> int:
    """Return the bits of the first channel of a JPEG 2000, 8 if they are not found."""
    start = _head_of(image)
    at = start.find(_SIZ) + 40
    return (start[at] & 0x7F) + 1 if 40 <= at < len(start) else 8


def _head_of(image: Image.Image) -> bytes:
    """Return the start of the file that an image was read from, no bytes if the file is gone.

    After Pillow has read the pixels, it keeps the file or its name, but not the number of bits.
    """
    for file in (getattr(image, "fp", None), getattr(image, "_fp", None)):
        if hasattr(file, "read") and not getattr(file, "closed", False):
            return bytes_of(file, _HEAD)
    name = getattr(image, "filename", None)
    if not name:
        return b""
    try:
        with opened_file(name) as opened:
            return opened.read(_HEAD)
    except (OSError, ImageError):
        return b""


def _deep(image: Image.Image) -> np.ndarray | None:
    """Read all 16 bits of a colour image, of which Pillow gives the upper 8.

    Pillow has raw modes for the upper bytes in both byte orders. The upper bytes in the other
    order are the lower bytes in this one.
    """
    file = getattr(image, "fp", None)
    if not getattr(image, "tile", None) or file is None or getattr(file, "closed", False):
        return None
    data, page = bytes_of(file), image.tell()
    if image.format not in {"PNG", "TIFF", "PPM"} or (page and image.format == "PNG"):
        return None
    if image.format == "PPM":
        return _deep_of_ppm(data, image)
    upper, lower = (open_bytes(data, page) for _ in range(2))
    rawmode = _rawmode(lower)
    if rawmode.startswith("RGBa"):
        # Pillow divides these by their alpha.
        return None
    if rawmode.startswith("LA;16"):
        # Both bytes of both values, as four channels.
        _set_rawmode(lower, "RGBA")
        four = np.asarray(upright(lower)).astype(np.uint16)
        grey, alpha = four[..., 0] << 8 | four[..., 1], four[..., 2] << 8 | four[..., 3]
        return np.stack([grey, grey, grey, alpha], axis=-1)
    native = "L" if sys.byteorder == "little" else "B"
    order = native if rawmode[-1] == "N" else rawmode[-1]
    _set_rawmode(lower, rawmode[:-1] + ("B" if order == "L" else "L"))
    parts = [np.asarray(upright(each)).astype(np.uint16) for each in (upper, lower)]
    return parts[0] << 8 | parts[1]


def _deep_of_ppm(data: bytes, image: Any) -> np.ndarray | None:
    """Read the values of a PPM as the file stores them."""
    at, shape = image.tile[0][2], (image.height, image.width, 3)
    if data[:2] == b"P3":
        # Pillow reads digits of grey with 16 bits, and digits of colour with 8.
        largest = image.tile[0][3][1]
        header = b"P2 %d %d %d\n" % (3 * image.width, image.height, largest)
        grey = PpmImageFile(io.BytesIO(header + data[at:]))
        values = np.asarray(grey).reshape(shape) * (largest / _16_BITS[1])
        rounded: np.ndarray = np.rint(values).astype(np.uint16)
        return rounded
    count = image.width * image.height * 3
    if data[:2] != b"P6" or len(data) < at + 2 * count:
        return None
    return np.frombuffer(data, ">u2", count, at).reshape(shape).astype(np.uint16)


def _rawmode(image: Any) -> str:
    args = image.tile[0][3]
    return str(args[0] if isinstance(args, tuple) else args)


def _set_rawmode(image: Any, rawmode: str) -> None:
    """Make Pillow unpack the pixels of an image in another raw mode, before it reads them."""
    image.tile = [
        # Pillow reads the fields of a tile by name, so it must stay a named tuple.
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]
