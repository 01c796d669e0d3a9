"""Raw 16 x 16 pixels: a control that every backbone should beat, and a way to find copies.

A backbone without parameters returns the pixels. So headstrip reads, stores and resumes them like
all embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from headstrip.attributes.splitting import near_pairs
from headstrip.encoder.encoder import Encoder
from headstrip.images.preprocessing import Preprocessing
from headstrip.spec import BackboneSpec

SIDE = 16
"""Height and width, in pixels."""

NEAR = 0.995
"""Correlation of two images' pixels above which they count as near copies."""


def pixel_encoder() -> Encoder:
    """Return an encoder whose embedding is the image, stretched to 16 x 16 pixels."""
    shape = (3, SIDE, SIDE)
    dim = 3 * SIDE * SIDE
    spec = BackboneSpec("pixels", "headstrip", "pixels", "headstrip", "image", shape, dim, 0)
    steps = Preprocessing(crop=(SIDE, SIDE), resize=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3)
    return Encoder(
        nn.Flatten(),
        None,
        law="headless",
        output_dim=dim,
        spec=spec,
        weights=None,
        weights_sha256=None,
        options={},
        input_shape=shape,
        preprocessing=steps,
        predictors=None,
        labels=None,
    )


def pixel_marks(pixels: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return a hash for each image, equal for images of the same size with equal pixels."""
    return [
        hashlib.sha256(np.ascontiguousarray(row).tobytes() + f"{width}x{height}".encode()).digest()
        for row, (width, height) in zip(pixels, sizes, strict=True)
    ]


def look_alikes(pixels: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return pairs of images that look the same, such as images encoded again or resized.

    Args:
        pixels: float32 array of shape (images, 768). An image of one colour is in no pair.
    """
    largest = max(1.0, float(pixels.max(initial=0)), -float(pixels.min(initial=0)))
    return near_pairs(len(pixels), lambda rows: _directions(pixels[rows], 1e-6 * largest), NEAR)


def _directions(pixels: np.ndarray, shortest: float) -> np.ndarray:
    """Subtract the mean of each row and scale it to length 1; rows that hardly vary become 0."""
    centred: np.ndarray = pixels - pixels.mean(1, keepdims=True)
    lengths = np.sqrt(np.square(centred).sum(1))
    is_flat = lengths <= shortest
    centred /= np.where(is_flat, 1, lengths)[:, None]
    centred[is_flat] = 0
    return centred
