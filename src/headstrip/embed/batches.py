"""Batches of images through an encoder, in eval mode."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headstrip.embed.images import is_file
from headstrip.errors import PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder import Encoder


def embed_images(encoder: Encoder, images: Iterable[Any], batch_size: int) -> np.ndarray:
    """Embed images, read one batch at a time.

    Args:
        encoder: The encoder, in any mode; its mode is afterwards what it was.
        images: What ``encoder.preprocess`` takes, one after the other.
        batch_size: Images that go through the network at once.

    Returns:
        float32 array of shape (number of images, output_dim), in the order given.

    Raises:
        ValueError: ``batch_size`` is below 1.
        PreprocessingError: ``images`` is one image, or an image is of another kind.
        ImageError: A file cannot be read.
    """
    check_batch_size(batch_size)
    if _is_one(images, 3 if encoder.spec.task == "image" else 4):
        raise PreprocessingError(
            f"images is a {type(images).__name__}, which is not several images. "
            "Pass a list, or any other iterable, of images."
        )
    parts = [
        embed_batch(encoder, torch.stack([encoder.preprocess(image) for image in batch]))
        for batch in _batches(images, batch_size)
    ]
    return np.concatenate([np.empty((0, encoder.output_dim), np.float32), *parts])


def embed_batch(encoder: Encoder, batch: Tensor) -> np.ndarray:
    """Embed one batch that is ready.

    Args:
        encoder: The encoder, in any mode; its mode is afterwards what it was.
        batch: float32 tensor of shape (N, *input_shape), on any device.

    Returns:
        float32 array of shape (N, output_dim).
    """
    device, dtype = encoder.place()
    with encoder.evaluating():
        embedding: Tensor = encoder(batch.to(device, dtype))
        return embedding.float().cpu().numpy()


def check_batch_size(batch_size: int) -> None:
    """Refuse a number of images that makes no batch.

    Raises:
        ValueError: It is no whole number above zero.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} makes no batch. Pass 1 or more.")


def _is_one(images: Any, axes: int) -> bool:
    """Whether this is one image, or one clip, of so many axes: its rows are not images."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= axes
    # Bytes are numbers one by one, and a file is lines.
    is_encoded = isinstance(images, (bytes, bytearray, memoryview)) or is_file(images)
    is_path = isinstance(images, (str, os.PathLike))
    return is_path or is_encoded or not isinstance(images, Iterable)


def _batches(images: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch
