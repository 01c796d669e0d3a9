"""One image file, read so that nothing in it can do more than fail.

No switch of Pillow's is touched: what holds for a file that is read here holds for no other.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from headstrip.embed.heif import is_heif, open_heif
from headstrip.errors import HeadstripError, ImageError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""The formats that are read, in Pillow's words. EPS, which runs another program, is not one."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LONGEST = 1000
_filters = threading.Lock()


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file, and turn it as its EXIF orientation says.

    Of an animation it is the first frame.

    Args:
        path: A file of one of ``FORMATS``, whatever its suffix.

    Returns:
        The decoded image, in the file's own mode. The file is closed.

    Raises:
        ImageError: The file cannot be read; the message has the path and the reason.

    Example:
        >>> load_image("photo.jpg").size  # doctest: +SKIP
        (640, 480)
    """
    try:
        return decode(path)
    except ImageError as error:
        raise ImageError(f"The image {os.fspath(path)!r} cannot be read: {error}") from error


def decode(path: str | os.PathLike[str]) -> Image.Image:
    """Read as ``load_image`` does, with nothing but the reason in the message of its error."""
    with reasons():
        if not stat.S_ISREG(os.stat(path).st_mode):
            # A pipe would be waited for.
            raise ImageError("it is no regular file.")
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ImageError("the file is empty.")
            return _read(file)


def decode_bytes(data: bytes) -> Image.Image:
    """Read the bytes of an image file as ``decode`` reads the file.

    Args:
        data: All bytes of the file.

    Returns:
        The decoded image, in its own mode, turned as its EXIF orientation says.

    Raises:
        ImageError: They cannot be read; the message is the reason and nothing else.

    Example:
        >>> decode_bytes(b"P5 2 1 255 ab").size
        (2, 1)
    """
    with reasons():
        if not data:
            raise ImageError("the file is empty.")
        return _read(io.BytesIO(data))


def decoded(image: Image.Image) -> Image.Image:
    """Return an image of the caller's own with its pixels read, if its file was not yet.

    Raises:
        ImageError: They cannot be read.
    """
    try:
        with reasons():
            image.load()
    except ImageError as error:
        raise ImageError(f"The pixels of {image!r} cannot be read: {error}") from error
    return image


@contextmanager
def reasons() -> Iterator[None]:
    """Turn what reading an image raises into an ImageError with one sentence.

    Errors of headstrip's own stay what they are.
    """
    try:
        yield
    except HeadstripError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(f"it is in none of the formats that are read ({known}).") from error
    except Exception as error:
        # Pillow's parsers raise what they happen to meet in a damaged file: OSError, SyntaxError,
        # ValueError, struct.error, IndexError, MemoryError, NotImplementedError and more.
        raise ImageError(f"{_reason(error)}.") from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # A damaged file's own bytes may be in it, any number of them.
    text = " ".join(text[:_LONGEST].split()).rstrip(".")
    return text or type(error).__name__


def _read(file: BinaryIO) -> Image.Image:
    image = open_image(file)
    image.load()
    # Pillow turns a TIFF itself when it loads it, and takes the orientation out.
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def open_image(file: BinaryIO) -> Image.Image:
    """Read the header of a file, with Pillow's warning of too many pixels as an error."""
    if is_heif(file):
        return open_heif(file)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    # Two threads that change the filters at once would put back each other's.
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file, formats=formats)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how an image is turned to be as its EXIF orientation says, None for not at all.

    ``ImageOps.exif_transpose`` writes the EXIF data anew as well, and fails where they are odd.
    """
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Data that nobody can read turn nothing; every viewer shows the image as it is stored.
        return None
