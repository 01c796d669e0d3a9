"""Read one image file. Whatever the file contains, the worst result is an ImageError.

headstrip changes none of Pillow's global settings, so other code reads images as before.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from headstrip.errors import HeadstripError, ImageError
from headstrip.images.heif import is_heif, open_heif
from headstrip.images.size_limit import MAX_BYTES, opened_file, refuse_size
from headstrip.images.tiff import unread_kind

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""The formats that headstrip reads, in Pillow's words, except HEIC. EPS would run a program."""

_ORIENTATION = 0x0112
_OTHER_ORIENTATIONS = ("Raw profile type exif", "XML:com.adobe.xmp", "xmp")
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
    """Read an image file and turn it upright as its EXIF orientation says.

    Of an animation the function reads the first frame.

    Args:
        path: A file of one of ``FORMATS``; the suffix does not matter.

    Returns:
        The decoded image, in the file's own mode. The file is closed.

    Raises:
        ImageError: The file cannot be read; the message is only the reason.

    Example:
        >>> load_image("photo.jpg").size  # doctest: +SKIP
        (640, 480)
    """
    with decoding_errors(), opened_file(path) as file:
        image = upright(open_image(file))
    # Pillow does this for a path. With the name, other code can read the number of bits.
    image.filename = os.fsdecode(path)  # type: ignore[attr-defined]
    return image


def bytes_of(file: Any, most: int | None = None) -> bytes:
    """Read a binary file object from its start and restore its position.

    Args:
        file: An object with ``read``; one that cannot seek is read from its position.
        most: Largest number of bytes to read; None reads all.

    Raises:
        ImageError: The object cannot be read, has more than ``MAX_BYTES``, or gives text.
    """
    with decoding_errors():
        can_seek = getattr(file, "seekable", lambda: hasattr(file, "seek"))()
        position = file.tell() if can_seek else 0
        if can_seek:
            file.seek(0)
        try:
            data = file.read(MAX_BYTES + 1 if most is None else most)
        finally:
            if can_seek:
                file.seek(position)
        if isinstance(data, str):
            raise ImageError("it was opened as text. Open it with mode 'rb'.")
        refuse_size(len(data))
        return bytes(data)


def decode_bytes(data: bytes) -> Image.Image:
    """Read the bytes of an image file as ``load_image`` reads the file.

    Args:
        data: All bytes of the file.

    Returns:
        The decoded image, in its own mode, turned as its EXIF orientation says.

    Raises:
        ImageError: The bytes cannot be read; the message is only the reason.

    Example:
        >>> decode_bytes(b"P5 2 1 255 ab").size
        (2, 1)
    """
    with decoding_errors():
        return upright(open_bytes(data))


def open_bytes(data: bytes, page: int = 0) -> Image.Image:
    """Read the header of an image file, given as bytes.

    Args:
        data: All bytes of the file.
        page: Which page or frame, counted from 0.

    Raises:
        ImageError: There are no bytes, too many, or the file has no such page.
    """
    refuse_size(len(data))
    if not data:
        raise ImageError("the file is empty.")
    image = open_image(io.BytesIO(data))
    if page:
        try:
            image.seek(page)
        except EOFError as error:
            raise ImageError(f"it has no page or frame {page + 1}.") from error
    return image


def open_image(file: BinaryIO) -> Image.Image:
    """Read the header of a file, and turn Pillow's warning about too many pixels into an error.

    Raises:
        ImageError: The file is a TIFF with pixels that Pillow does not read. The message describes
            them.
    """
    if is_heif(file):
        return open_heif(file)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    # The filters are global: two threads that change them at once would restore each other's.
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file, formats=formats)
        except UnidentifiedImageError:
            if (kind := unread_kind(file)) is not None:
                raise ImageError(kind) from None
            raise


def upright(image: Image.Image) -> Image.Image:
    """Read the pixels of an image and turn it as its EXIF orientation says.

    Returns:
        The same image if its orientation needs no turn. A turned image has no orientation, so that
        no other code turns it again.
    """
    _load(image)
    # Pillow turns a TIFF itself when it loads it, and removes the orientation.
    turn = turn_of(image)
    if turn is None:
        return image
    turned = image.transpose(turn)
    _remove_orientation(turned)
    return turned


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the turn that the EXIF orientation of an image demands, None for no turn.

    ``ImageOps.exif_transpose`` also writes the EXIF data, and fails if they are damaged.
    """
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Damaged EXIF data raise many types of errors. Viewers show such an image as it is stored.
        return None


def _load(image: Any) -> None:
    """Read the pixels of an image, those of a TIFF through its file object.

    If an uncompressed TIFF has a name, Pillow maps it with the size of the turned image, which
    scrambles the pixels of a rotated one.
    """
    if not (isinstance(image, TiffImageFile) and image.tile):
        image.load()
        return
    name, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = name


def _remove_orientation(image: Image.Image) -> None:
    """Remove the orientation from an image's metadata, and all EXIF data if they are damaged."""
    try:
        exif = image.getexif()
        exif.pop(_ORIENTATION, None)
        data = exif.tobytes()
    except Exception:
        # Pillow writes the EXIF data that it read. Damaged data raise many types of errors.
        data = b""
    if "exif" in image.info:
        image.info["exif"] = data
    for key in _OTHER_ORIENTATIONS:
        image.info.pop(key, None)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings about damaged tags."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def decoding_errors() -> Iterator[None]:
    """Turn any error of reading an image into an ImageError of one sentence.

    headstrip's own errors pass unchanged.
    """
    try:
        yield
    except HeadstripError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(f"it is in none of the formats that headstrip reads ({known}).") from error
    except Exception as error:
        # Pillow's parsers raise many types for a damaged file: OSError, SyntaxError, ValueError,
        # struct.error, IndexError, MemoryError, NotImplementedError and more.
        raise ImageError(f"{_reason(error)}.") from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # The text can contain any number of bytes of a damaged file.
    text = " ".join(text[:_LONGEST].split()).rstrip(".")
    return text or type(error).__name__
