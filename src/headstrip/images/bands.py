"""Images with any number of channels: from arrays, and from TIFF files of several bands.

Each channel is resized and cropped as a grey image. Nothing here imports torch.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from headstrip.errors import ImageError, PreprocessingError
from headstrip.images import tiff
from headstrip.images.decode import decoding_errors, open_bytes, without_warnings
from headstrip.images.modes import as_8_bits, refuse_huge
from headstrip.images.size_limit import refuse_size

if TYPE_CHECKING:
    from headstrip.images.preprocessing import Preprocessing

PICTURES = (1, 3)
"""The numbers of channels of Pillow's grey and RGB images."""

_WIDTH, _HEIGHT, _COMPRESSION, _ORIENTATION, _PREDICTOR = 256, 257, 259, 274, 317
_OFFSETS, _SIZES, _ROWS = 273, 279, 278
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_ONE_FOR_EACH = (_OFFSETS, _SIZES, _TILE_OFFSETS, _TILE_SIZES)
_KEPT = (_WIDTH, _HEIGHT, _COMPRESSION, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, *_ONE_FOR_EACH)
_SHORT = (_COMPRESSION, tiff.BITS, tiff.FORMAT, tiff.CHANNELS, tiff.PHOTOMETRIC, tiff.PLANES)
_TYPES = {(8, tiff.UNSIGNED): "u1", (16, tiff.UNSIGNED): "u2", (32, tiff.FLOATING): "f4"}
_MINIMUM_IS_BLACK = 1
_HEADERS = {b"II*\0": 8, b"MM\0*": 8, b"II+\0": 16}
"""Length of the header of a TIFF or a BigTIFF in bytes, by its first four bytes."""


@dataclass(frozen=True, slots=True)
class Bands:
    """An image of any number of channels, each as an 8-bit grey image.

    Attributes:
        planes: The channels in order, images of mode L and of one size.
    """

    planes: tuple[Image.Image, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as for a PIL image."""
        width, height = self.planes[0].size
        return width, height

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.size[1]

    def shown(self) -> Image.Image:
        """Return an image to look at: three channels as RGB, or the first one as grey."""
        return self.planes[0] if len(self.planes) < 3 else Image.merge("RGB", self.planes[:3])


def bands_of_array(values: np.ndarray, preprocessing: Preprocessing) -> Bands:
    """Split an array into its channels.

    Args:
        values: Array (H, W, C) of uint8, uint16 or float32.
        preprocessing: Has the channels, and the ``value_range`` of values that are not uint8.

    Raises:
        PreprocessingError: The array has other channels than the preprocessing, no pixels, or
            values whose range is not known.
    """
    height, width, channels = values.shape
    check_channels(channels, preprocessing)
    refuse_huge(height, width, preprocessing)
    pixels = as_8_bits(values, preprocessing.value_range)
    planes = (np.ascontiguousarray(pixels[..., at]) for at in range(channels))
    return Bands(tuple(map(Image.fromarray, planes)))


def check_channels(channels: int, preprocessing: Preprocessing) -> None:
    """Refuse an image that has other channels than the encoder takes.

    Raises:
        PreprocessingError: The numbers of channels differ.
    """
    if channels != preprocessing.channels:
        raise PreprocessingError(
            f"The image has {channels} channel{'s' * (channels > 1)}, and the encoder takes "
            f"{preprocessing.channels}. "
            f"Choose as many channels of the image, or build the encoder with "
            f"in_chans={channels} or with the names of these channels (--in-chans)."
        )


def has_bands(data: bytes, preprocessing: Preprocessing, page: int = 0) -> bool:
    """Whether ``read_bands`` has to read a file, because Pillow cannot.

    Pillow has no images of 2, 4 or more channels that are not colours, and does not read a TIFF of
    three such channels.
    """
    if preprocessing.channels not in PICTURES:
        return True
    if preprocessing.channels == 1 or data[:4] not in _HEADERS:
        return False
    try:
        with decoding_errors(), without_warnings():
            tags = _tags(data, page)
    except ImageError:
        return False
    if tags is None:
        return False
    kind = tags.get(tiff.CHANNELS), tags.get(tiff.PHOTOMETRIC)
    return kind == (3, _MINIMUM_IS_BLACK)


def read_bands(data: bytes, preprocessing: Preprocessing, page: int = 0) -> Bands:
    """Read a TIFF of as many bands as a preprocessing has channels.

    Args:
        data: All bytes of the file.
        preprocessing: The preprocessing that the image is for.
        page: Which page, counted from 0.

    Raises:
        PreprocessingError: The file is not a TIFF, or has other channels.
        ImageError: headstrip cannot read it; the message is only the reason.
    """
    refuse_size(len(data))
    with decoding_errors():
        with without_warnings():
            tags = _tags(data, page)
        if tags is None:
            image = open_bytes(data, page)
            check_channels(len(image.getbands()), preprocessing)
            raise PreprocessingError(
                f"The image is a {image.format} file, and only a TIFF has {preprocessing.channels} "
                "channels that are not colours. Pass an array (height, width, "
                f"{preprocessing.channels}), or save the image as TIFF."
            )
        if _WIDTH not in tags or _HEIGHT not in tags:
            raise ImageError("it is a TIFF whose directory is damaged.")
        channels = int(tiff.number(tags, tiff.CHANNELS, 1))
        if channels == 1 and tags.next:
            # ImageJ stores an image of several channels this way.
            raise PreprocessingError(
                f"The image has one channel and several pages, and the encoder takes "
                f"{preprocessing.channels} channels. If the pages are the channels, pass an array "
                f"(height, width, {preprocessing.channels}) of them."
            )
        check_channels(channels, preprocessing)
        with without_warnings():
            values = _values(data, tags, channels)
        return bands_of_array(values, preprocessing)


def _tags(data: bytes, page: int) -> ImageFileDirectory_v2 | None:
    """Return the tags of one page of a TIFF, None where the data are not a TIFF."""
    if data[:4] == tiff.BIG_ENDIAN_BIGTIFF:
        raise ImageError(tiff.NO_BIG_ENDIAN)
    if data[:4] not in _HEADERS:
        return None
    file, at, header = io.BytesIO(data), 0, data[: _HEADERS[data[:4]]]
    following = ImageFileDirectory_v2(header).next
    while True:
        if not following:
            raise ImageError(f"it has no page or frame {page + 1}.")
        file.seek(following)
        tags = ImageFileDirectory_v2(header)
        tags.load(file)
        if at == page:
            return tags
        at, following = at + 1, tags.next


def _values(data: bytes, tags: ImageFileDirectory_v2, channels: int) -> np.ndarray:
    """Return the values of a page, (H, W, C) of uint8, uint16 or float32."""
    bits, kind = tiff.number(tags, tiff.BITS, 1), tiff.number(tags, tiff.FORMAT, tiff.UNSIGNED)
    same = {*_each(tags.get(tiff.BITS, 1))} == {bits} and {
        *_each(tags.get(tiff.FORMAT, tiff.UNSIGNED))
    } == {kind}
    predictor = tags.get(_PREDICTOR, 1)
    stored = _TYPES.get((bits, kind)) if same else None
    problem = None
    if stored is None:
        problem = f"values of {bits} bits (sample format {kind})"
    elif tags.get(_ORIENTATION, 1) != 1:
        problem = "an orientation"
    elif predictor not in (1, 2) or (predictor == 2 and stored == "f4"):
        problem = f"the predictor {predictor}"
    if problem is not None:
        raise ImageError(
            f"it is a TIFF of {channels} channels with {problem}, which headstrip does not read. "
            "Save it with values of 8 or 16 bits without a sign, or of float32, and without a "
            "predictor."
        )
    width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"Image size ({width * height} pixels) exceeds limit of {limit} pixels, could be "
            "decompression bomb DOS attack."
        )
    planar = tiff.number(tags, tiff.PLANES, 1) == 2
    parts = [
        _decoded(data, tags, 1 if planar else channels, plane, channels if planar else 1)
        for plane in range(channels if planar else 1)
    ]
    values = np.stack(parts, axis=-1) if planar else parts[0].reshape(height, width, channels)
    if predictor == 2:
        # The differences start again in each tile, and wrap around as the type does.
        across = int(tags.get(_TILE_WIDTH, width))
        values = np.concatenate(
            [
                np.cumsum(values[:, x : x + across], axis=1, dtype=values.dtype)
                for x in range(0, width, across)
            ],
            axis=1,
        )
    found: np.ndarray = values.astype(stored, copy=False)
    return found


def _decoded(
    data: bytes, tags: ImageFileDirectory_v2, across: int, plane: int, planes: int
) -> np.ndarray:
    """Let Pillow read values as one grey image.

    Interleaved channels become a grey image whose width is multiplied by their number.

    Args:
        data: The file.
        tags: The tags of the page.
        across: Number of values of each pixel.
        plane: Which plane, if each channel is stored separately.
        planes: How many planes there are.
    """
    made: dict[int, tuple[int, ...]] = {
        tag: tuple(_part(tags[tag], plane, planes)) if tag in _ONE_FOR_EACH else _each(tags[tag])
        for tag in _KEPT
        if tag in tags
    }
    for tag in (_WIDTH, _TILE_WIDTH):
        if tag in made:
            made[tag] = (int(made[tag][0]) * across,)
    for tag, default in ((tiff.BITS, 1), (tiff.FORMAT, tiff.UNSIGNED)):
        made[tag] = (tiff.number(tags, tag, default),)
    made[tiff.CHANNELS], made[tiff.PHOTOMETRIC], made[tiff.PLANES] = (
        (1,),
        (_MINIMUM_IS_BLACK,),
        (1,),
    )
    grey = _with_directory(data, made)
    try:
        image = Image.open(io.BytesIO(grey), formats=["TIFF"])
    except UnidentifiedImageError as error:
        raise ImageError(
            f"it is a TIFF with the compression {tiff.number(tags, _COMPRESSION, 1)}, which Pillow "
            "does not read. Save it with another one, such as deflate (8)."
        ) from error
    found: np.ndarray = np.asarray(image)
    return found


def _with_directory(data: bytes, tags: dict[int, tuple[int, ...]]) -> bytes:
    """Return a TIFF with the same pixels and other tags for its first page.

    Pillow writes directories too, but moves the offsets of strips.
    """
    order = "<" if data[:2] == b"II" else ">"
    start = len(data) + len(data) % 2
    at = start + 2 + 12 * len(tags) + 4
    entries, behind = b"", b""
    for tag, values in sorted(tags.items()):
        form, kind = ("H", 3) if tag in _SHORT else ("I", 4)
        packed = struct.pack(f"{order}{len(values)}{form}", *values)
        entries += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", at + len(behind))
            behind += packed
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + behind
    # A BigTIFF gets the header of a plain one: in a file of at most `MAX_BYTES`, offsets fit it.
    header = data[:2] + struct.pack(f"{order}HI", 42, start)
    return header + data[8:] + bytes(start - len(data)) + directory


def _part(value: Any, plane: int, planes: int) -> Iterator[int]:
    """Yield the values of a tag for the strips or tiles of one plane."""
    every = _each(value)
    count = len(every) // planes
    yield from every[plane * count : (plane + 1) * count]


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
