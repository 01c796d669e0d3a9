"""Image files with more than 8 bits a channel, written byte by byte: Pillow writes few of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from tests.embed.hostile_images import PNG, chunk

Tag = tuple[int, str, Sequence[float]]
_FORMS = {"H": 3, "I": 4, "h": 8, "f": 11, "d": 12}


def tiff(
    values: np.ndarray, *, photometric: int, order: str = "<", bits: int | None = None,
    planes: int = 1, tags: Sequence[Tag] = (),
) -> bytes:  # fmt: skip
    """Write an uncompressed TIFF.

    Args:
        values: Array (height, width) or (height, width, channels) of any number type.
        photometric: 0 where white is zero, 1 where black is, 2 for RGB.
        order: "<" or ">".
        bits: What BitsPerSample says, None for that of the type.
        planes: 2 stores the channels one after the other.
        tags: More tags: number, form and values.
    """
    height, width = values.shape[:2]
    pixels = values.reshape(height, width, -1)
    channels = pixels.shape[2]
    if planes == 2:
        pixels = np.moveaxis(pixels, -1, 0)
    data = pixels.astype(values.dtype.newbyteorder(order)).tobytes()
    sample = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    extra = channels - (3 if photometric == 2 else 1)
    entries: list[Tag] = [
        (256, "I", [width]), (257, "I", [height]), (259, "H", [1]), (262, "H", [photometric]),
        (258, "H", [bits or values.dtype.itemsize * 8] * channels), (277, "H", [channels]),
        (278, "I", [height]), (279, "I", [len(data) // (channels if planes == 2 else 1)]),
        (284, "H", [planes]), (339, "H", [sample] * channels), *tags,
    ]  # fmt: skip
    entries.append((279, "I", [len(data)]))
    entries = list({entry[0]: entry for entry in entries}.values())
    entries.append((273, "I", [0]))
    if extra > 0:
        entries.append((338, "H", [2] if channels in (2, 4) else [0] * extra))
    return _assembled(sorted(entries), data, order)


def _assembled(entries: list[Tag], data: bytes, order: str) -> bytes:
    behind = 8 + 2 + 12 * len(entries) + 4
    packed = {tag: struct.pack(f"{order}{len(v)}{form}", *v) for tag, form, v in entries}
    blob = b"".join(part for part in packed.values() if len(part) > 4)
    packed[273] = struct.pack(f"{order}I", behind + len(blob))
    out, at = b"", behind
    for tag, form, values in entries:
        part = packed[tag]
        if len(part) > 4:
            part, at = struct.pack(f"{order}I", at), at + len(part)
        out += struct.pack(f"{order}HHI", tag, _FORMS[form], len(values)) + part.ljust(4, b"\0")
    head = b"II*\0" if order == "<" else b"MM\0*"
    start = struct.pack(f"{order}IH", 8, len(entries))
    return head + start + out + struct.pack(f"{order}I", 0) + blob + data


def png(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG of 16 bits from an array (height, width) or (height, width, 2 to 4)."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return PNG + b"".join(chunk(name, body) for name, body in parts)


def ppm(values: np.ndarray, largest: int) -> bytes:
    """Write a binary PPM or PGM whose header states its largest value."""
    kind = b"P6" if values.ndim == 3 else b"P5"
    height, width = values.shape[:2]
    return b"%s %d %d %d\n" % (kind, width, height, largest) + values.astype(">u2").tobytes()
