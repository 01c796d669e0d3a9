"""Files that may occur in a folder of images, each of a kind that has caused trouble before.

``KINDS`` names them; docs/reference/images.md says which row each of them gives.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
Make = Callable[[Path], None]
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        title: A short description.
        name: The name of the file; the content determines the kind, not the suffix.
        make: A function that writes the file.
    """

    title: str
    name: bytes
    make: Make


KINDS: list[Kind] = []


def kind(title: str, suffix: str | bytes, content: bytes | Callable[[], bytes]) -> None:
    """Add a kind of file with fixed content."""

    def make(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content())

    special(title, suffix, make)


def special(title: str, suffix: str | bytes, make: Make) -> None:
    """Add a kind of file that its own function makes."""
    name = suffix if isinstance(suffix, bytes) else f"{len(KINDS):02}.{suffix}".encode()
    KINDS.append(Kind(title, name, make))


def picture(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 4)
    pixels = np.stack([ramp, ramp * 2, 255 - ramp], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    return image.convert("L").convert(mode) if mode == "LA" else image.convert(mode)


def saved(image: Image.Image, form: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def turned(orientation: int, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), form, exif=exif)


def cut(form: str, keep: float, **how: object) -> bytes:
    data = saved(picture(width=200, height=150), form, **how)
    return data[: int(len(data) * keep)]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG with any header and chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def deep_rgb(numbers: bytes) -> bytes:
    rows = b"".join(b"\0" + numbers * (WIDTH * 6 // len(numbers)) for _ in range(HEIGHT))
    return png(WIDTH, HEIGHT, 16, 2, chunk(b"IDAT", zlib.compress(rows)))


def wrong_crc() -> bytes:
    data = bytearray(saved(picture(), "PNG"))
    data[29] ^= 0xFF
    return bytes(data)


def huge_jpeg() -> bytes:
    """A JPEG with a header that claims 65,000 x 65,000 pixels."""
    data = bytearray(saved(picture(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def huge_gif() -> bytes:
    data = bytearray(saved(picture("P"), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def huge_bmp() -> bytes:
    data = bytearray(saved(picture(), "BMP"))
    data[18:26] = struct.pack("<ii", 50_000, 50_000)
    return bytes(data)


def broken_scan() -> bytes:
    """A JPEG with noise in the middle of its data."""
    data = bytearray(saved(picture(width=200, height=150), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 64] = b"\x55\xaa" * 32
    return bytes(data)


def looping_tiff() -> bytes:
    """A TIFF with a page that is its own next page."""
    data = bytearray(saved(picture(), "TIFF"))
    start = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[start : start + 2])[0]
    after = start + 2 + 12 * entries
    data[after : after + 4] = struct.pack("<I", start)
    return bytes(data)


def greedy_tiff() -> bytes:
    """A TIFF with a header that puts the directory far beyond the end of the file."""
    return b"II*\0" + struct.pack("<I", 0x7FFFFFF0) + bytes(64)


def deep_grey() -> Image.Image:
    return Image.fromarray(np.resize(np.arange(4096, dtype=np.uint16), (HEIGHT, WIDTH)) * 3)


def tagged(data: bytes, tag: int, value: int) -> bytes:
    """Change the 16-bit value of an existing tag in a little-endian TIFF."""
    changed = bytearray(data)
    start = struct.unpack("<I", data[4:8])[0]
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            changed[at + 2 : at + 12] = struct.pack("<HIHH", 3, 1, value, 0)
    return bytes(changed)


def white_is_zero() -> bytes:
    ramp = np.linspace(0, 65_535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    return tagged(saved(Image.fromarray(ramp), "TIFF"), 262, 0)


def five_channels(kind: str) -> bytes:
    """A TIFF of five 8-bit channels, made from a grey TIFF that is five times as wide."""
    wide = saved(picture("L", width=WIDTH * 5), "TIFF", tiffinfo={277: 1})
    changed = tagged(tagged(wide, 256, WIDTH), 277, 5)
    return tagged(changed, 262, 2 if kind == "RGB" else 1)


def int_tiff(values: list[int]) -> bytes:
    pixels = np.resize(np.array(values, np.int32), (HEIGHT, WIDTH))
    return saved(Image.fromarray(pixels), "TIFF")


def animated(form: str) -> bytes:
    others = [picture().rotate(90 * turn) for turn in (1, 2)]
    return saved(picture(), form, save_all=True, append_images=others, duration=100)


def text_bomb() -> bytes:
    body = b"Comment\0\0" + zlib.compress(bytes(1 << 24))
    return png(WIDTH, HEIGHT, 8, 2, chunk(b"zTXt", body), chunk(b"IDAT", zlib.compress(b"")))


def profile_bomb() -> bytes:
    body = b"profile\0\0" + zlib.compress(bytes(1 << 24))
    rows = zlib.compress((b"\0" + bytes(3 * WIDTH)) * HEIGHT)
    return png(WIDTH, HEIGHT, 8, 2, chunk(b"iCCP", body), chunk(b"IDAT", rows))


def oversized(path: Path) -> None:
    """A sparse file of more bytes than headstrip reads."""
    path.write_bytes(saved(picture(), "JPEG"))
    os.truncate(path, (1 << 28) + 1)


def closed(path: Path) -> None:
    path.write_bytes(saved(picture(), "JPEG"))
    path.chmod(0)


for number in range(1, 9):
    kind(f"JPEG, EXIF orientation {number}", "jpg", lambda number=number: turned(number))
kind("PNG, EXIF orientation 6", "png", lambda: turned(6, "PNG"))
kind("TIFF, EXIF orientation 6", "tif", lambda: turned(6, "TIFF"))
kind("EXIF orientation 99", "jpg", lambda: turned(99))
kind(
    "EXIF data that nobody can read",
    "jpg",
    lambda: saved(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
)
kind("grey JPEG", "jpg", lambda: saved(picture("L"), "JPEG"))
kind("CMYK JPEG", "jpg", lambda: saved(picture("CMYK"), "JPEG"))
kind("progressive JPEG", "jpg", lambda: saved(picture(), "JPEG", progressive=True))
kind("JPEG with rubbish behind its end", "jpg", lambda: saved(picture(), "JPEG") + bytes(5000))
kind("JPEG with noise in its middle", "jpg", broken_scan)
kind("1-bit PNG", "png", lambda: saved(picture("1"), "PNG"))
kind(
    "16-bit grey PNG",
    "png",
    lambda: saved(Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)), "PNG"),
)
kind("16-bit colour PNG", "png", lambda: deep_rgb(bytes(range(240))))
kind("16-bit colour PNG, values of 12 bits", "png", lambda: deep_rgb(b"\x0f\xff\0\0\x01\0"))
kind("16-bit grey TIFF, values of 12 bits", "tif", lambda: saved(deep_grey(), "TIFF"))
kind(
    "16-bit grey TIFF that states 12 bits",
    "tif",
    lambda: saved(deep_grey(), "TIFF", tiffinfo={281: 4095}),
)
kind("16-bit grey TIFF, white is zero", "tif", white_is_zero)
kind("TIFF of 5 channels", "tif", lambda: five_channels("MinIsBlack"))
kind("TIFF of 5 channels, RGB and others", "tif", lambda: five_channels("RGB"))
kind("palette", "png", lambda: saved(picture("P"), "PNG"))
kind(
    "palette with transparency",
    "png",
    lambda: saved(picture("P"), "PNG", transparency=bytes(range(256))),
)
kind("grey with alpha", "png", lambda: saved(picture("LA"), "PNG"))
kind("colour with alpha", "png", lambda: saved(picture("RGBA"), "PNG"))
kind("32-bit TIFF, values of 16 bits", "tif", lambda: int_tiff([0, 65_535]))
kind("32-bit TIFF, larger values", "tif", lambda: int_tiff([0, 1 << 20]))
kind("floating-point TIFF", "tif", lambda: saved(Image.new("F", (WIDTH, HEIGHT), 0.5), "TIFF"))
kind("animated GIF", "gif", lambda: animated("GIF"))
kind("animated WebP", "webp", lambda: animated("WEBP"))
kind("animated PNG", "png", lambda: animated("PNG"))
kind("TIFF of three pages", "tif", lambda: animated("TIFF"))
kind("TIFF whose second page is its first", "tif", looping_tiff)
kind("JPEG 2000", "jp2", lambda: saved(picture(), "JPEG2000"))
kind("AVIF", "avif", lambda: saved(picture(), "AVIF"))
kind("TGA", "tga", lambda: saved(picture(), "TGA"))
kind("PPM", "ppm", lambda: saved(picture(), "PPM"))
kind("PNG named .jpg", "jpg", lambda: saved(picture(), "PNG"))
kind("text named .jpg", "jpg", b"not a picture")
kind("web page named .jpg", "jpg", b"<!DOCTYPE html><title>404</title>" * 40)
kind("SVG named .png", "png", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
kind("EPS named .png", "png", lambda: saved(picture(), "EPS"))
kind("ICO named .png", "png", lambda: saved(picture("RGBA"), "ICO"))
kind("gzip of a JPEG named .jpg", "jpg", lambda: gzip.compress(saved(picture(), "JPEG")))
kind("no bytes", "jpg", b"")
kind("first byte of a JPEG", "jpg", b"\xff")
kind("header of a PNG and no more", "png", lambda: png(WIDTH, HEIGHT, 8, 2)[:-12])
kind("half a JPEG", "jpg", lambda: cut("JPEG", 0.5))
kind("half a progressive JPEG", "jpg", lambda: cut("JPEG", 0.5, progressive=True))
kind("half a PNG", "png", lambda: cut("PNG", 0.5))
kind("half a GIF", "gif", lambda: cut("GIF", 0.5))
kind("half a WebP", "webp", lambda: cut("WEBP", 0.5))
kind("half a TIFF", "tif", lambda: cut("TIFF", 0.5))
kind("half a BMP", "bmp", lambda: cut("BMP", 0.5))
kind("PNG with a wrong checksum", "png", wrong_crc)
kind("TIFF whose directory is beyond its end", "tif", greedy_tiff)
kind("1 x 1", "png", lambda: saved(picture(width=1, height=1), "PNG"))
kind("0 x 5 PNG", "png", lambda: png(0, 5, 8, 2, chunk(b"IDAT", zlib.compress(b""))))
kind("20,000 x 1", "png", lambda: saved(picture(width=20_000, height=1), "PNG"))
kind("1 x 20,000", "png", lambda: saved(picture(width=1, height=20_000), "PNG"))
kind("PNG that says 12,000 x 10,000", "png", lambda: png(12_000, 10_000, 8, 2))
kind("PNG that says 60,000 x 60,000", "png", lambda: png(60_000, 60_000, 8, 2))
kind(
    "1-bit PNG of 20,000 x 20,000",
    "png",
    lambda: png(20_000, 20_000, 1, 0, chunk(b"IDAT", zlib.compress(bytes(2501 * 20_000)))),
)
kind("JPEG that says 65,000 x 65,000", "jpg", huge_jpeg)
kind("GIF that says 65,535 x 65,535", "gif", huge_gif)
kind("BMP that says 50,000 x 50,000", "bmp", huge_bmp)
kind("PPM that says 50,000 x 50,000", "ppm", b"P6 50000 50000 255\n")
kind("PNG with 16 MiB of packed text", "png", text_bomb)
kind("PNG with 16 MiB of packed profile", "png", profile_bomb)
special("file of 256 MiB and a byte", "jpg", oversized)
special("file that nobody may read", "jpg", closed)
special("link to itself", "jpg", lambda path: path.symlink_to(path.name))
special("link to nothing", "jpg", lambda path: path.symlink_to("nothing.jpg"))
special("link to a device", "jpg", lambda path: path.symlink_to("/dev/zero"))
special("pipe", "jpg", os.mkfifo)
special("folder named .jpg", "jpg", os.mkdir)
kind("file that is removed while the run is on", "removed.jpg", lambda: saved(picture(), "JPEG"))
kind("file that is emptied while the run is on", "emptied.jpg", lambda: saved(picture(), "JPEG"))
kind("name that is not UTF-8", b"caf\xe9.jpg", lambda: saved(picture(), "JPEG"))
kind(
    "name with a line break, quotes and a bidi mark",
    'a\n"><b>\u202e.jpg'.encode(),
    lambda: saved(picture(), "JPEG"),
)
kind("name with a backslash", b"a\\x41.jpg", lambda: saved(picture(), "JPEG"))


def write_hostile(folder: Path) -> dict[str, Kind]:
    """Write a file of every kind.

    Returns:
        The kinds by the path that a table has for each.
    """
    from headstrip.embed.sources import stored_path

    kinds = {}
    for each in KINDS:
        name = os.fsdecode(each.name)
        each.make(folder / name)
        kinds[stored_path(name)] = each
    return kinds


def change_during_run(folder: Path) -> None:
    """Change the listed files as their kinds define."""
    for path in folder.glob("*.removed.jpg"):
        path.unlink()
    for path in folder.glob("*.emptied.jpg"):
        path.write_bytes(b"")
