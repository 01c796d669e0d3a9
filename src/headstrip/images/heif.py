"""Read HEIC and HEIF images with pillow-heif, if it is installed.

headstrip registers nothing in Pillow, so other code reads images as before.
"""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from headstrip.errors import ImageError

_HEVC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_ANY_CODING = frozenset({b"mif1", b"msf1"})
_AV1 = frozenset({b"avif", b"avis"})
_LONGEST_BOX = 1 << 10


def is_heif(file: BinaryIO) -> bool:
    """Whether a file begins like HEIC or HEIF and is not AVIF. Rewinds the file."""
    start = file.read(12)
    size = min(int.from_bytes(start[:4], "big"), _LONGEST_BOX)
    brands = file.read(max(0, size - len(start))) if start[4:8] == b"ftyp" else b""
    file.seek(0)
    if start[4:8] != b"ftyp":
        return False
    major = start[8:12]
    # The compatible brands follow the version, four bytes each.
    compatible = {brands[at : at + 4] for at in range(4, len(brands), 4)}
    return major in _HEVC or (major in _ANY_CODING and not compatible & _AV1)


def open_heif(file: BinaryIO) -> Image.Image:
    """Read the header of a HEIC or HEIF image.

    Reading the pixels applies the rotation that the file states; EXIF does not add another one.

    Raises:
        ImageError: pillow-heif is not installed, or the file is damaged.
        PIL.Image.DecompressionBombError: It has more pixels than Pillow's limit.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            "it is a HEIC image, and pillow-heif, which reads it, is not installed. "
            "Run pip install 'headstrip[heif]'."
        ) from error
    try:
        image: Image.Image = HeifImageFile(file)
    except (SyntaxError, ValueError, EOFError, RuntimeError) as error:
        raise ImageError(f"the HEIC image is damaged ({str(error).rstrip('.')}).") from error
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(
            f"Image size ({pixels} pixels) exceeds limit of {limit} pixels"
        )
    return image
