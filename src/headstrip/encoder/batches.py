"""Dividing images into batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from headstrip.images.inputs import is_file


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that is not a positive integer.

    Raises:
        ValueError: It is not a positive integer.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a positive integer, such as 16.")


def is_one(images: Any, axes: int) -> bool:
    """Whether ``images`` is one image or clip; an array of one has at most ``axes`` axes."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= axes
    # These can be iterated, but bytes give numbers, and a file gives lines.
    is_encoded = isinstance(images, (bytes, bytearray, memoryview)) or is_file(images)
    is_path = isinstance(images, (str, os.PathLike))
    return is_path or is_encoded or not isinstance(images, Iterable)


def in_batches(images: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of ``size`` images, the last one shorter."""
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch
