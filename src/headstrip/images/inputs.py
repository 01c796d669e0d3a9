"""Turn the images and clips that users pass into the input of a preprocessing."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headstrip.errors import ImageError, PreprocessingError
from headstrip.images.bands import (
    PICTURES,
    Bands,
    bands_of_array,
    check_channels,
    has_bands,
    read_bands,
)
from headstrip.images.decode import bytes_of, decoding_errors, open_bytes
from headstrip.images.modes import as_8_bits, as_picture, refuse_huge
from headstrip.images.pixels import to_pixels
from headstrip.images.preprocessing import Preprocessing
from headstrip.images.size_limit import opened_file
from headstrip.system.arguments import type_of

_DTYPES = (np.uint8, np.uint16, np.float32)
_ENCODED = (bytes, bytearray, memoryview)
_WANTED = (
    "Pass a PIL image, a path to an image file, the bytes of one, a binary file object, an array "
    "(height, width, channels) or (height, width) of uint8, uint16 or float32, or a uint8 tensor "
    "(channels, height, width)."
)


def to_picture(image: Any, preprocessing: Preprocessing) -> Image.Image | Bands | Tensor:
    """Convert one image to the input of ``preprocessing.transform()``.

    A file and a PIL image of it give the same picture: it is turned as its EXIF orientation says,
    values of more than 8 bits are scaled by ``value_range``, and transparent parts are put on the
    ``background``. See ``docs/reference/images.md``.

    Args:
        image: A path to an image file; the bytes of one, or a binary file object that has them; a
            PIL image; an array (H, W, C) or (H, W) of uint8, uint16 or float32; or a uint8 tensor
            (C, H, W), whose resize differs from a PIL image's in its last bits. Arrays and tensors
            are not turned; ``value_range`` scales arrays that are not uint8.
        preprocessing: The preprocessing that the image is for.

    Returns:
        A PIL image of mode RGB (L for 1 channel), the bands of an image of other channels, or the
        tensor itself.

    Raises:
        PreprocessingError: The image is of another kind, has no pixels, would have more pixels than
            Pillow's limit after the resize, or does not convert to 8-bit RGB.
        ImageError: The file cannot be read.
    """
    if isinstance(image, Tensor):
        _check_tensor(image, preprocessing)
        refuse_huge(int(image.shape[-2]), int(image.shape[-1]), preprocessing)
        return image
    if isinstance(image, np.ndarray):
        found = _from_array(image, preprocessing)
        return found if isinstance(found, Bands) else as_picture(found, preprocessing)
    if isinstance(image, Bands):
        check_channels(len(image.planes), preprocessing)
        return image
    if not (isinstance(image, (*_ENCODED, str, os.PathLike, Image.Image)) or is_file(image)):
        raise PreprocessingError(f"An image cannot be {_described(image)}. {_WANTED}")
    try:
        return read_picture(image, preprocessing)
    except ImageError as error:
        if isinstance(image, Image.Image):
            shown = f"pixels of {image!r}"
        elif isinstance(image, (str, os.PathLike)):
            shown = f"image {os.fspath(image)!r}"
        else:
            shown = f"image in the {type(image).__name__}"
        raise ImageError(f"The {shown} cannot be read: {error} Pass another image.") from error


def to_input(image: Any, preprocessing: Preprocessing) -> Tensor:
    """Turn one image into the input of a network.

    Args:
        image: Any image that ``to_picture`` takes.
        preprocessing: All steps.

    Returns:
        float32 tensor (C, H, W).

    Raises:
        PreprocessingError: As for ``to_picture``.
        ImageError: The file cannot be read.
    """
    picture = to_picture(image, preprocessing)
    ready: Tensor
    if isinstance(picture, Bands):
        pixels = torch.from_numpy(to_pixels(picture, preprocessing))
        ready = preprocessing.normalising()(pixels.permute(2, 0, 1))
    else:
        ready = preprocessing.transform()(picture)
    return ready


def read_picture(image: Any, preprocessing: Preprocessing) -> Image.Image | Bands:
    """Read an encoded image or a PIL image as ``to_picture`` does.

    Args:
        image: A path, bytes, a binary file object or a PIL image.
        preprocessing: The preprocessing that the image is for.

    Raises:
        PreprocessingError: headstrip cannot use the pixels.
        ImageError: The image cannot be read; the message is only the reason.
    """
    with decoding_errors():
        if isinstance(image, Image.Image):
            return as_picture(image, preprocessing)
        if isinstance(image, (str, os.PathLike)):
            with opened_file(image) as file:
                data = bytes_of(file)
        else:
            data = bytes(image) if isinstance(image, _ENCODED) else bytes_of(image)
        if has_bands(data, preprocessing):
            return read_bands(data, preprocessing)
        return as_picture(open_bytes(data), preprocessing)


def is_file(value: Any) -> bool:
    """Whether a value has a method ``read``, as a file object has."""
    return callable(getattr(value, "read", None))


def to_frames(clip: Any, preprocessing: Preprocessing) -> Tensor:
    """Convert one clip to the input of ``preprocessing.transform()``.

    Args:
        clip: A uint8 array or tensor (T, H, W, 3).
        preprocessing: The preprocessing that the clip is for; T is its ``frames``.

    Returns:
        uint8 tensor (T, 3, H, W).

    Raises:
        PreprocessingError: The clip is of another kind, or has another number of frames.
    """
    if isinstance(clip, np.ndarray) and clip.dtype == np.uint8:
        # torch warns about arrays that are not writable, and has no negative strides.
        clip = torch.from_numpy(clip.copy())
    if (
        not isinstance(clip, Tensor)
        or clip.dtype != torch.uint8
        or clip.ndim != 4
        or clip.shape[-1] != preprocessing.channels
        or not clip.numel()
    ):
        raise PreprocessingError(
            f"A clip cannot be {_described(clip)}. Pass a uint8 array or tensor of shape "
            f"({preprocessing.frames}, height, width, {preprocessing.channels})."
        )
    frames = len(clip)
    if frames != preprocessing.frames:
        raise PreprocessingError(
            f"The clip has {frames} frames, but {preprocessing.frames} are needed. Pass clips of "
            f"{preprocessing.frames} frames. For an encoder of clips of {frames} frames, call "
            f"build_encoder(..., preprocessing=dataclasses.replace(encoder.preprocessing, "
            f"frames={frames}))."
        )
    refuse_huge(int(clip.shape[1]), int(clip.shape[2]), preprocessing)
    return clip.permute(0, 3, 1, 2)


def _described(value: Any) -> str:
    """Name the type of a value, and the dtype and the shape of an array."""
    name = type_of(value)
    if isinstance(value, (np.ndarray, Tensor)):
        return f"{name} of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    return name


def _check_tensor(image: Tensor, preprocessing: Preprocessing) -> None:
    channels = preprocessing.channels
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != channels:
        raise PreprocessingError(
            f"A tensor must be an image of uint8 and shape ({channels}, height, width), got "
            f"{_described(image)}. {_WANTED}"
        )


def _from_array(image: np.ndarray, preprocessing: Preprocessing) -> Image.Image | Bands:
    if image.dtype not in _DTYPES or image.ndim not in (2, 3) or not image.size:
        raise PreprocessingError(f"An image cannot be {_described(image)}. {_WANTED}")
    if image.ndim == 2:
        image = image[..., None]
    channels = image.shape[-1]
    if preprocessing.channels not in PICTURES:
        return bands_of_array(image, preprocessing)
    if channels not in PICTURES:
        check_channels(channels, preprocessing)
    pixels = as_8_bits(image[..., 0] if channels == 1 else image, preprocessing.value_range)
    return Image.fromarray(np.ascontiguousarray(pixels))
