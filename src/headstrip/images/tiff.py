"""What a TIFF file says about its pixels.

Nothing here imports torch.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

BITS, PHOTOMETRIC, CHANNELS, PLANES, FORMAT = 258, 262, 277, 284, 339
MIN_VALUE, MAX_VALUE, SMIN_VALUE, SMAX_VALUE = 280, 281, 340, 341
WHITE_IS_ZERO, CMYK = 0, 5
UNSIGNED, SIGNED, FLOATING = 1, 2, 3

MAX_PAGES = 10_000
"""The most pages of one file that are counted."""

_KINDS = {UNSIGNED: "unsigned integers", SIGNED: "signed integers", FLOATING: "floating point"}
_MOST_CHANNELS = 4


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of an image that Pillow opened from a TIFF, nothing for another image."""
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}


def number(tags: Mapping[int, Any], tag: int, default: int) -> Any:
    """Return the value of a tag, the first where it has one for each channel."""
    value = tags.get(tag, default)
    if isinstance(value, tuple):
        return value[0] if value else default
    return value


def excess_channels(tags: Mapping[int, Any]) -> str | None:
    """Say that a TIFF has more channels than an image that can be shown, None where it has not."""
    channels = number(tags, CHANNELS, 1)
    most = _MOST_CHANNELS + (number(tags, PHOTOMETRIC, WHITE_IS_ZERO) == CMYK)
    if channels <= most:
        return None
    return (
        f"it is a TIFF of {channels} channels, and headstrip reads 1 to 4: grey or RGB, with or "
        "without alpha, and CMYK. Save the three channels to look at as RGB."
    )


def unread_kind(file: BinaryIO) -> str | None:
    """Say what pixels a TIFF has that Pillow does not read, None where the file is not a TIFF.

    Args:
        file: A file that Pillow does not open, read from its start.
    """
    try:
        file.seek(0)
        header = file.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return None
        if header[2:4] in (b"+\0", b"\0+"):
            header += file.read(8)
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
    except Exception:
        # Pillow's parser raises what it happens to meet in a damaged file.
        return None
    if CHANNELS not in tags and BITS not in tags:
        return None
    channels, bits = number(tags, CHANNELS, 1), number(tags, BITS, 1)
    kind = _KINDS.get(number(tags, FORMAT, UNSIGNED), "numbers of an unknown kind")
    return excess_channels(tags) or (
        f"it is a TIFF of {channels} channel{'s' if channels != 1 else ''} of {bits} bits "
        f"({kind}, photometric interpretation {number(tags, PHOTOMETRIC, WHITE_IS_ZERO)}), which "
        "Pillow does not read. Save it as 8-bit or 16-bit RGB or grey."
    )


def count_pages(file: BinaryIO) -> int:
    """Count the pages of a TIFF by its chain of directories, ``MAX_PAGES`` at most.

    Args:
        file: The file; its position changes.

    Returns:
        The number of pages, 1 where the chain cannot be read.
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
        # What is behind a damaged directory cannot be shown either.
        pass
    return max(1, len(seen))
