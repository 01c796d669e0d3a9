"""What an image or a clip may be, and how it becomes what a preprocessing takes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headstrip.embed.decode import decoded, load_image
from headstrip.embed.modes import in_channels, refuse_huge
from headstrip.errors import PreprocessingError
from headstrip.preprocessing import Preprocessing

__all__ = ["load_image", "to_frames", "to_picture"]


def to_picture(image: Any, preprocessing: Preprocessing) -> Image.Image | Tensor:
    """Turn one image into what ``preprocessing.transform()`` takes.

    An image whose mode differs is converted as Pillow does: transparency is dropped, and grey,
    palettes, CMYK and YCbCr become RGB. 16-bit grey is scaled to 8 bits, 65535 to 255; pixels of
    mode ``I`` count as 16-bit.

    Args:
        image: A PIL image, taken as it is stored; a path to an image file, turned as its EXIF
            orientation says; a uint8 array (H, W, 3), (H, W, 1) or (H, W); or a uint8 tensor
            (C, H, W), whose resize differs from a PIL image's in its last bits.
        preprocessing: What the image is for.

    Returns:
        A PIL image of mode RGB (L for 1 channel), or the tensor itself.

    Raises:
        PreprocessingError: It is none of these, has no pixels, or would be resized to more
            pixels than Pillow takes for safe.
        ImageError: The file cannot be read.
    """
    if isinstance(image, Tensor):
        _check_tensor(image, preprocessing)
        refuse_huge(int(image.shape[-2]), int(image.shape[-1]), preprocessing)
        return image
    if isinstance(image, (str, os.PathLike)):
        picture = load_image(image)
    elif isinstance(image, np.ndarray):
        picture = _from_array(image)
    elif isinstance(image, Image.Image):
        picture = decoded(image)
    else:
        raise PreprocessingError(f"An image cannot be {_described(image)}. {_WANTED}")
    refuse_huge(picture.height, picture.width, preprocessing)
    return in_channels(picture, preprocessing.channels)


def to_frames(clip: Any, preprocessing: Preprocessing) -> Tensor:
    """Turn one clip into what ``preprocessing.transform()`` takes.

    Args:
        clip: A uint8 array or tensor (T, H, W, 3).
        preprocessing: What the clip is for; T is its ``frames``.

    Returns:
        uint8 tensor (T, 3, H, W).

    Raises:
        PreprocessingError: It is none of these, or has another number of frames.
    """
    if isinstance(clip, np.ndarray) and clip.dtype == np.uint8:
        # torch warns of arrays that cannot be written to, and has no negative strides.
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
            f"The clip has {frames} frames, and {preprocessing.frames} are needed. Pass that many, "
            f"or build_encoder(..., preprocessing=dataclasses.replace(encoder.preprocessing, "
            f"frames={frames})) for an encoder of clips of this length."
        )
    refuse_huge(int(clip.shape[1]), int(clip.shape[2]), preprocessing)
    return clip.permute(0, 3, 1, 2)


_WANTED = (
    "Pass a PIL image, a path to an image file, a uint8 array (height, width, 3), "
    "(height, width, 1) or (height, width), or a uint8 tensor (channels, height, width)."
)


def _described(value: Any) -> str:
    """Name what was passed: its type, and of an array the dtype and the shape."""
    name = f"a {type(value).__name__}"
    if isinstance(value, (np.ndarray, Tensor)):
        return f"{name} of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    return name


def _check_tensor(image: Tensor, preprocessing: Preprocessing) -> None:
    channels = preprocessing.channels
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != channels:
        raise PreprocessingError(
            f"An image cannot be {_described(image)} where {channels} channels are needed. "
            f"{_WANTED}"
        )


def _from_array(image: np.ndarray) -> Image.Image:
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    is_colour = image.ndim == 3 and image.shape[-1] == 3
    if image.dtype != np.uint8 or not (is_colour or image.ndim == 2) or not image.size:
        raise PreprocessingError(f"An image cannot be {_described(image)}. {_WANTED}")
    return Image.fromarray(np.ascontiguousarray(image))
