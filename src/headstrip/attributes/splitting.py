"""Divide images into parts to fit on, to choose the strength on, and to measure on.

The parts depend on the seed, the labels and the identities of the images. They do not depend on the
order of the rows or on other attributes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2

_NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "val", "valid", "dev"),
    TEST: ("test", "testing", "holdout", "held-out"),
}
PART_OF = {name: part for part, names in _NAMES.items() for name in names}
"""The part for each text in a split column, in lower case."""

_BINS = 10
_QUERIES = 1_024
_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Fractions:
    """The sizes of the test and the validation part.

    Attributes:
        test: Share of all images.
        validation: Share of the other images.
    """

    test: float
    validation: float


def split(
    strata: Sequence[Hashable], groups: np.ndarray, keys: Sequence[str], seed: int, size: Fractions
) -> np.ndarray:
    """Divide images so that each part has its share of each stratum.

    Args:
        strata: The stratum of each image, such as its class; each is divided in the same shares.
        groups: int array of shape (N,): all images of a group go into the same part.
        keys: A text that identifies the group of each image, equal for all images of a group.
        seed: Seed of the random order.
        size: The shares.

    Returns:
        int array with ``TRAIN``, ``VALIDATION`` or ``TEST`` for each image.
    """
    parts = np.zeros(len(groups), int)
    for drawn in drawn_groups(strata, groups, keys, seed).values():
        count = len(drawn)
        tests = _share(count, size.test, spare=1)
        validations = _share(count - tests, size.validation, spare=1)
        for position, rows in enumerate(drawn):
            part = TEST if position < tests else TRAIN
            if tests <= position < tests + validations:
                part = VALIDATION
            parts[rows] = part
    return parts


def drawn_groups(
    strata: Sequence[Hashable], groups: np.ndarray, keys: Sequence[str], seed: int
) -> dict[Hashable, list[list[int]]]:
    """Return the rows of each group by stratum, in a random order of the groups.

    Args:
        strata: The stratum of each image, such as its class.
        groups: int array of shape (N,): the group of each image.
        keys: A text that identifies the group of each image. The random order depends on it, and
            not on the order of the rows.
        seed: Seed of the random order.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    by_stratum: dict[Hashable, list[tuple[str, int]]] = defaultdict(list)
    for group, rows in members.items():
        drawn = hashlib.sha256(f"{seed}\0{keys[rows[0]]}".encode(errors="surrogatepass"))
        by_stratum[strata[rows[0]]].append((drawn.hexdigest(), group))
    return {
        stratum: [members[group] for _, group in sorted(drawn)]
        for stratum, drawn in by_stratum.items()
    }


def take_validation(
    parts: np.ndarray,
    strata: Sequence[Hashable],
    groups: np.ndarray,
    keys: Sequence[str],
    seed: int,
    share: float,
) -> np.ndarray:
    """Return parts in which a share of the training part is the validation part."""
    rows = np.flatnonzero(parts == TRAIN)
    chosen: list[int] = rows.tolist()
    drawn = split(
        [strata[row] for row in chosen],
        groups[rows],
        [keys[row] for row in chosen],
        seed,
        Fractions(0.0, share),
    )
    parts = parts.copy()
    parts[rows] = drawn
    return parts


def bins_of(numbers: np.ndarray) -> list[int]:
    """Return the stratum of each number: ten of equal size, by rank."""
    edges = np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1])
    found: list[int] = np.searchsorted(edges, numbers, side="right").tolist()
    return found


def groups_of(
    embeddings: np.ndarray, checksums: Sequence[str | None], near: float | None
) -> np.ndarray:
    """Number the groups of images that are copies of each other.

    Args:
        embeddings: float32 array of shape (N, dim). Images with equal pixels have equal rows.
        checksums: Checksum of the bytes of each image, None if unknown.
        near: Cosine similarity above which two images count as copies. With None only images with
            equal bytes or equal embeddings count as copies.

    Returns:
        int array of shape (N,): the smallest row of the group.
    """

    def directions(rows: slice) -> np.ndarray:
        lengths = np.linalg.norm(embeddings[rows], axis=1, keepdims=True)
        scaled: np.ndarray = embeddings[rows] / np.maximum(lengths, np.finfo(np.float32).tiny)
        return scaled

    digests = [hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in embeddings]
    pairs = () if near is None else near_pairs(len(embeddings), directions, near)
    return connected(len(embeddings), [digests, checksums], pairs)


def connected(
    rows: int, marks: Iterable[Sequence[Hashable]], pairs: Iterable[tuple[int, int]]
) -> np.ndarray:
    """Number the groups of rows that are connected by equal marks or by pairs, also indirectly.

    Args:
        rows: Number of rows.
        marks: Sequences with a mark for each row; None does not connect rows.
        pairs: Pairs of rows to connect.

    Returns:
        int array of shape (rows,): the smallest row of the group.
    """
    parents = np.arange(rows)

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = int(parents[row])
        return row

    def join(one: int, other: int) -> None:
        first, second = sorted((root(one), root(other)))
        parents[second] = first

    for marked in marks:
        seen: dict[Hashable, int] = {}
        for row, mark in enumerate(marked):
            if mark is not None:
                join(row, seen.setdefault(mark, row))
    for one, other in pairs:
        join(one, other)
    return np.array([root(row) for row in range(rows)], int)


def near_pairs(
    rows: int, directions: Callable[[slice], np.ndarray], near: float
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows whose cosine similarity is above a threshold, in bounded memory.

    Args:
        rows: Number of rows.
        directions: Returns some of the rows, each scaled to the length 1; a row of length 0 is near
            to no other row.
        near: The threshold.
    """
    for start in range(0, rows, _QUERIES):
        queries = directions(slice(start, start + _QUERIES))
        for first in range(start, rows, _ROWS):
            similar = queries @ directions(slice(first, first + _ROWS)).T
            for one, other in np.argwhere(similar > near).tolist():
                if start + one < first + other:
                    yield start + one, first + other


def _share(count: int, share: float, spare: int) -> int:
    """Return how many of ``count`` groups make a share: at least one if any can be spared."""
    if share <= 0 or count <= spare:
        return 0
    return min(max(1, round(count * share)), count - spare)
