"""Successive halving: measure all backbones on few images, and the better half on twice as many."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from headstrip.compare.folds import Task

FIRST = 128
"""Smallest number of images in the first round."""

PER_CLASS = 4
"""Smallest mean number of images per class in the first round."""


def first_size(tasks: Sequence[Task]) -> int:
    """Return the smallest number of images in the first round, which grows with the classes."""
    classes = [len(task.target.attribute.classes) for task in tasks if task.kind == "class"]
    return max(FIRST, PER_CLASS * max(classes, default=0))


def sizes_of(images: int, backbones: int, first: int = FIRST) -> list[int]:
    """Return the number of images in each round; the last round has all images.

    Each round has twice the images of the round before, and half its backbones.

    Example:
        >>> sizes_of(5_000, 8), sizes_of(200, 8), sizes_of(5_000, 1)
        ([128, 256, 512, 1024, 2048, 5000], [200], [5000])
    """
    if backbones < 2:
        return [images]
    sizes = []
    size = first
    # A last round with only a few more images would add little information.
    while size * 2 <= images:
        sizes.append(size)
        size *= 2
    return [*sizes, images] if sizes and sizes[-1] < images else [images]


def kept(backbones: int) -> int:
    """Return how many backbones continue in the next round.

    Example:
        >>> kept(8), kept(3), kept(2)
        (4, 2, 2)
    """
    return max(2, -(-backbones // 2))


def order_of(task: Task, groups: np.ndarray, keys: Sequence[str], seed: int) -> np.ndarray:
    """Order images so that the first N of them have all classes in their shares, for any N.

    Args:
        task: The attribute whose classes are spread evenly.
        groups: Group of each image; copies follow each other in the order.
        keys: A text that identifies each image.
        seed: Seed of the order.

    Returns:
        int array of shape (images,): the rows in this order.
    """
    strata: dict[int, Hashable] = {}
    for stratum, group in zip(task.strata, task.groups.tolist(), strict=True):
        strata.setdefault(group, stratum)
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    drawn: dict[Hashable, list[tuple[str, int]]] = defaultdict(list)
    for group in members:
        digest = hashlib.sha256(f"{seed}\0{keys[group]}".encode(errors="surrogatepass"))
        drawn[strata.get(group)].append((digest.hexdigest(), group))
    places = [
        ((place + 0.5) / len(found), digest, group)
        for found in drawn.values()
        for place, (digest, group) in enumerate(sorted(found))
    ]
    return np.array([row for *_, group in sorted(places) for row in members[group]], int)
