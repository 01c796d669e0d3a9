"""The tags of a TIFF file that describe its pixels, and its pages.

Nothing here imports torch.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

BITS, PHOTOMETRIC, CHANNELS, PLANES, EXTRA, FORMAT = 258, 262, 277, 284, 338, 339
MIN_VALUE, MAX_VALUE, SMIN_VALUE, SMAX_VALUE = 280, 281, 340, 341
WHITE_IS_ZERO, RGB, CMYK = 0, 2, 5
UNSIGNED, SIGNED, FLOATING = 1, 2, 3
UNSPECIFIED, ALPHA = 0, 2

BIG_ENDIAN_BIGTIFF = b"MM\0+"
"""The first four bytes of a kind of TIFF that Pillow does not read."""

NO_BIG_ENDIAN = "it is a big-endian BigTIFF. Save it as a plain TIFF."

MAX_PAGES = 10_000
"""The largest number of pages that headstrip counts in a file."""

_KINDS = {UNSIGNED: "unsigned integers", SIGNED: "signed integers", FLOATING: "floating point"}
_MOST_CHANNELS = 4


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of an image that Pillow opened from a TIFF, else an empty mapping."""
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}


def number(tags: Mapping[int, Any], tag: int, default: int) -> Any:
    """Return the value of a tag, the first one of a tag with a value for each channel."""
    value = tags.get(tag, default)
    if isinstance(value, tuple):
        return value[0] if value else default
    return value


def excess_channels(tags: Mapping[int, Any]) -> str | None:
    """Return why a TIFF has too many channels for an image, None if it does not."""
    channels = number(tags, CHANNELS, 1)
    if channels == 2 and number(tags, EXTRA, ALPHA) == UNSPECIFIED:
        return (
            "it is a TIFF of 2 channels, of which the second is not alpha. Build the encoder with "
            "in_chans=('A', 'B'), or save the channel to look at as grey."
        )
    is_colour = number(tags, PHOTOMETRIC, WHITE_IS_ZERO) == RGB
    if is_colour and channels == 4 and number(tags, EXTRA, ALPHA) == UNSPECIFIED:
        return (
            "it is a TIFF of 4 channels, of which the fourth is neither a colour nor alpha. Build "
            "the encoder with in_chans=('R', 'G', 'B', None) to use it, or save the first three "
            "as RGB."
        )
    most = _MOST_CHANNELS + (number(tags, PHOTOMETRIC, WHITE_IS_ZERO) == CMYK)
    if channels <= most:
        return None
    return (
        f"it is a TIFF of {channels} channels, and headstrip reads 1 to 4: grey or RGB, with or "
        "without alpha, and CMYK. Save the three channels to look at as RGB."
    )


def unread_kind(file: BinaryIO) -> str | None:
    """Describe the pixels of a TIFF that Pillow does not read, None if the file is not a TIFF.

    Args:
        file: A file that Pillow does not open; its position changes.
    """
    try:
        file.seek(0)
        header = file.read(8)
        if header[:4] == BIG_ENDIAN_BIGTIFF:
            return NO_BIG_ENDIAN
        if header[:4] not in (b"II*\0", b"MM\0*", b"II+\0"):
            return None
        if header[:4] == b"II+\0":
            header += file.read(8)
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
    except Exception:
        # Pillow's parser raises many types of errors for a damaged file.
        return None
    if CHANNELS not in tags and BITS not in tags:
        return None
    channels, bits = number(tags, CHANNELS, 1), number(tags, BITS, 1)
    kind = _KINDS.get(number(tags, FORMAT, UNSIGNED), "values of an unknown kind")
    return excess_channels(tags) or (
        f"it is a TIFF of {channels} channel{'s' if channels != 1 else ''} of {bits} bits "
        f"({kind}, photometric interpretation {number(tags, PHOTOMETRIC, WHITE_IS_ZERO)}), which "
        "Pillow does not read. Save it as 8-bit or 16-bit RGB or grey."
    )


def count_pages(file: BinaryIO) -> int:
    """Count the pages of a TIFF, at most ``MAX_PAGES``, by its chain of directories.

    Args:
        file: The file; its position changes.

    Returns:
        The number of pages, 1 if the chain cannot be read.
    """
    file.seek(0)
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    is_big = header[2:4] in (b"+\0", b"\0+")
    count_form, offset_form, entry = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + offset_form, header, 8 if is_big else 4)
        while at and at not in seen and len(seen) < MAX_PAGES:
            file.seek(at)
            (entries,) = struct.unpack(
                order + count_form, file.read(struct.calcsize(order + count_form))
            )
            file.seek(entries * entry, 1)
            following = file.read(struct.calcsize(order + offset_form))
            seen.add(at)
            (at,) = struct.unpack(order + offset_form, following)
    except (struct.error, OSError, OverflowError, ValueError):
        # Pillow cannot show the pages behind a damaged directory either.
        pass
    return max(1, len(seen))
