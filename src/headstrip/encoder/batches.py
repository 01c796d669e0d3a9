"""Several images, one batch after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from headstrip.images.pictures import is_file


def check_batch_size(batch_size: int) -> None:
    """Refuse a number of images that makes no batch.

    Raises:
        ValueError: It is no whole number above zero.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} makes no batch. Pass 1 or more.")


def is_one(images: Any, axes: int) -> bool:
    """Whether this is one image, or one clip, of so many axes: its rows are not images."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= axes
    # Bytes are numbers one by one, and a file is lines.
    is_encoded = isinstance(images, (bytes, bytearray, memoryview)) or is_file(images)
    is_path = isinstance(images, (str, os.PathLike))
    return is_path or is_encoded or not isinstance(images, Iterable)


def in_batches(images: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of ``size`` images, the last one shorter."""
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch
