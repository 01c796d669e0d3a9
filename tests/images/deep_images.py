"""Write image files with more than 8 bits per channel byte by byte: Pillow writes few of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from tests.images.hostile_images import PNG, chunk

Tag = tuple[int, str, Sequence[float]]
_FORMS = {"b": 6, "H": 3, "I": 4, "h": 8, "f": 11, "d": 12}


def tiff(
    values: np.ndarray,
    *,
    photometric: int,
    order: str = "<",
    bits: int | None = None,
    planes: int = 1,
    tags: Sequence[Tag] = (),
    rows: int | None = None,
    tile: int | None = None,
    compression: str = "none",
    predictor: bool = False,
    is_big: bool = False,
) -> bytes:
    """Write a TIFF.

    Args:
        values: Array (height, width) or (height, width, channels) of any number type.
        photometric: 0 if white is zero, 1 if black is zero, 2 for RGB.
        order: "<" or ">".
        bits: The value of BitsPerSample; by default, the bits of the type.
        planes: 2 stores the channels one after the other.
        tags: More tags: number, form and values.
        rows: Rows of a strip, None for all of them.
        tile: Side of a square tile, None for strips.
        compression: One of ``PACKED``.
        predictor: Whether differences of neighbours are stored, of interleaved integers.
        is_big: Whether to write a BigTIFF.
    """
    height, width = values.shape[:2]
    pixels = values.reshape(height, width, -1)
    channels = pixels.shape[2]
    if tile:
        parts = [
            np.pad(part, [(0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)])
            for y in range(0, height, tile)
            for x in range(0, width, tile)
            for part in [pixels[y : y + tile, x : x + tile]]
        ]
    elif planes == 2:
        parts = [*np.moveaxis(pixels, -1, 0)]
    else:
        parts = [pixels[y : y + (rows or height)] for y in range(0, height, rows or height)]
    if predictor:
        parts = [np.diff(part, axis=1, prepend=part.dtype.type(0)) for part in parts]
    number, pack = PACKED[compression]
    blocks = [pack(part.astype(part.dtype.newbyteorder(order)).tobytes()) for part in parts]
    sample = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    extra = channels - (3 if photometric == 2 else 1)
    entries: list[Tag] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (259, "H", [number]),
        (262, "H", [photometric]),
        (258, "H", [bits or values.dtype.itemsize * 8] * channels),
        (277, "H", [channels]),
        (284, "H", [planes]),
        (317, "H", [2 if predictor else 1]),
        (339, "H", [sample] * channels),
        *tags,
    ]
    if tile:
        entries += [(322, "I", [tile]), (323, "I", [tile])]
    else:
        entries.append((278, "I", [rows or height]))
    entries.append((325 if tile else 279, "I", [len(block) for block in blocks]))
    entries.append((324 if tile else 273, "I", [0] * len(blocks)))
    if extra > 0:
        alpha = [(338, "H", [2] if channels in (2, 4) else [0] * extra)]
        entries += alpha if 338 not in {entry[0] for entry in tags} else []
    return _assembled(sorted(entries), blocks, order, is_big)


def _assembled(entries: list[Tag], blocks: list[bytes], order: str, is_big: bool) -> bytes:
    count, form, inline = ("Q", "Q", 8) if is_big else ("H", "I", 4)
    start = 2 * inline
    behind = start + struct.calcsize(f"={count}") + (4 + 2 * inline) * len(entries) + inline
    packed = {tag: struct.pack(f"{order}{len(v)}{form}", *v) for tag, form, v in entries}
    blob = b"".join(part for part in packed.values() if len(part) > inline)
    sizes = [0, *map(len, blocks[:-1])]
    offsets = [behind + len(blob) + sum(sizes[: index + 1]) for index in range(len(blocks))]
    packed[273 if 273 in packed else 324] = struct.pack(f"{order}{len(offsets)}I", *offsets)
    blob = b"".join(part for part in packed.values() if len(part) > inline)
    out, at = struct.pack(f"{order}{count}", len(entries)), behind
    for tag, kind, values in entries:
        part = packed[tag]
        if len(part) > inline:
            part, at = struct.pack(f"{order}{form}", at), at + len(part)
        head = struct.pack(f"{order}HH{form}", tag, _FORMS[kind], len(values))
        out += head + part.ljust(inline, b"\0")
    small, big = struct.pack(f"{order}HI", 42, 8), struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
    first = (b"II" if order == "<" else b"MM") + (big if is_big else small)
    return first + out + struct.pack(f"{order}{form}", 0) + blob + b"".join(blocks)


def _lzw(data: bytes) -> bytes:
    """Pack bytes as LZW, and reset the table before a code needs more than 9 bits."""
    codes = [256]
    for index, byte in enumerate(data):
        codes += [byte, 256] if index % 200 == 199 else [byte]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


PACKED: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (1, bytes),
    "lzw": (5, _lzw),
    "zlib": (8, zlib.compress),
}
"""Compressions of a TIFF: number and function."""


def png(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG of 16 bits from an array (height, width) or (height, width, 2 to 4)."""
    width = values.shape[1]
    channels = values.shape[2] if values.ndim == 3 else 1
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = [row.astype(">u2").tobytes() for row in values]
    return _png_of(rows, width, 16, colour, chunks)


def shallow_png(values: np.ndarray, bits: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a grey PNG of 1, 2 or 4 bits from an array (height, width)."""
    digits = [((values >> bit) & 1).astype(np.uint8) for bit in reversed(range(bits))]
    rows = np.packbits(np.stack(digits, axis=-1).reshape(len(values), -1), axis=1)
    return _png_of([row.tobytes() for row in rows], values.shape[1], bits, 0, chunks)


def _png_of(
    rows: list[bytes], width: int, bits: int, colour: int, chunks: Sequence[tuple[bytes, bytes]]
) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return PNG + b"".join(chunk(name, body) for name, body in parts)


def ppm(values: np.ndarray, largest: int) -> bytes:
    """Write a binary PPM or PGM with its largest value in the header."""
    kind = b"P6" if values.ndim == 3 else b"P5"
    height, width = values.shape[:2]
    return b"%s %d %d %d\n" % (kind, width, height, largest) + values.astype(">u2").tobytes()


def plain_ppm(values: np.ndarray, largest: int) -> bytes:
    """Write a plain-text PPM or PGM, with comments in its header and between its numbers."""
    kind = b"P3" if values.ndim == 3 else b"P2"
    height, width = values.shape[:2]
    numbers = b"\n".join(b" ".join(b"%d" % each for each in row.ravel()) for row in values)
    head = b"%s\n# 1 2 3\n%d %d\n%d\n" % (kind, width, height, largest)
    return head + b"# 4 5 6\n" + numbers + b"\n"
