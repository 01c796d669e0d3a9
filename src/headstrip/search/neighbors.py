"""The nearest images, by the cosine of their embeddings.

Nothing here imports torch, but for ``find_neighbors``, which embeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from headstrip.embed.output.loading import Block, EmbeddingsFile, open_embeddings
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

Index = Literal["exact", "faiss", "usearch"]
"""How neighbours are searched: all rows compared, or a library asked which rows to compare."""

_DECIMALS = 12


class Neighbor(NamedTuple):
    """An image that is near another.

    Attributes:
        path: Its path in the file of embeddings.
        similarity: Cosine of the angle between the two embeddings, from -1 to 1.
        row: Its row in the file, from 0.
    """

    path: str
    similarity: float
    row: int


def find_neighbors(
    embeddings: str | os.PathLike[str],
    images: Iterable[Any],
    k: int = 5,
    *,
    encoder: Encoder | None = None,
    index: Index = "exact",
) -> list[list[Neighbor]]:
    """Find the images of a file of embeddings that are nearest to others.

    Args:
        embeddings: A file that ``headstrip embed`` wrote.
        images: What ``encoder.embed`` takes.
        k: How many to find for each.
        encoder: The encoder of the file; None builds it from what the file says of it.
        index: See ``nearest``.

    Returns:
        For each image its neighbours, the nearest first; see ``nearest``.

    Raises:
        HeadstripError: The file cannot be read or is of another encoder, whose difference is
            named; or as ``nearest``.
        ImageError: An image cannot be read.
        ValueError: As ``nearest``.

    Example:
        >>> find_neighbors("photos.parquet", ["cat.jpg"], k=1)  # doctest: +SKIP
        [[Neighbor(path='cat.png', similarity=0.998..., row=0)]]
    """
    from headstrip.embed.rebuild_encoder import build_encoder_of, check_encoder, check_width

    file = open_embeddings(embeddings)
    _check(k, index)
    library_of(index)
    if encoder is None:
        encoder = build_encoder_of(file)
    else:
        check_encoder(file, encoder)
    check_width(file, encoder)
    return nearest(file, encoder.embed(images, batch_size=1), k, index=index)


def nearest(
    file: EmbeddingsFile,
    queries: np.ndarray | Sequence[np.ndarray],
    k: int = 5,
    *,
    index: Index = "exact",
) -> list[list[Neighbor]]:
    """Find the rows of a file whose embeddings have the largest cosine to others.

    A block of the file is in memory at a time, however large it is. The cosine is computed in
    float64; those that agree to 12 decimals count as equal, and such images come in the order of
    their paths. An image without an embedding, or whose embedding is zero or not finite, is near
    nothing.

    Args:
        file: What ``open_embeddings`` gave.
        queries: Array of shape (queries, dim).
        k: How many to find for each.
        index: ``"exact"`` compares every row. ``"faiss"`` (``IndexFlatIP``) and ``"usearch"``
            (an approximate graph) hold all embeddings in memory as float32 and propose rows, among
            which the cosine above chooses.

    Returns:
        For each query ``k`` neighbours, fewer where the file has fewer, the nearest first.

    Raises:
        HeadstripError: The file is damaged, or the library of ``index`` is not installed.
        ValueError: ``k``, ``index``, or the shape or a value of ``queries`` cannot be used.
    """
    _check(k, index)
    directions = _directions(file, np.asarray(queries))
    proposed = _PROPOSERS[index](file, directions, 4 * k + 16) if index in _PROPOSERS else None
    best: list[list[Neighbor]] = [[] for _ in directions]
    for block in file.blocks():
        if proposed is not None and not _has_any(block, proposed):
            continue
        places, units = _usable(block)
        for query, direction in enumerate(directions):
            # Not a product of matrices: there the last bits depend on where in it a row is, and
            # two rows that are alike would not tie.
            cosines = np.round(np.einsum("ij,j->i", units, direction), _DECIMALS)
            if proposed is not None:
                cosines[~_among(block, proposed[query])[places]] = -np.inf
            best[query] = _merged(best[query], block, places, cosines, k)
    return best


def _check(k: int, index: str) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k={k!r} is no number of neighbours. Pass 1 or more.")
    if index not in get_args(Index):
        raise ValueError(f"index={index!r} is unknown. Pass one of {', '.join(get_args(Index))}.")


def _directions(file: EmbeddingsFile, queries: np.ndarray) -> np.ndarray:
    """Scale queries to length 1, as float64."""
    if queries.ndim != 2 or queries.shape[1] != file.dim:
        raise ValueError(
            f"queries has the shape {queries.shape}, and {str(file.path)!r} has embeddings of "
            f"{file.dim} numbers. Pass an array of shape (queries, {file.dim})."
        )
    vectors = queries.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise ValueError(
            f"Query {bad[0]} (of 0 to {len(queries) - 1}) is zero or not finite, so it is near "
            "nothing. Leave it out."
        )
    scaled: np.ndarray = vectors / lengths[:, None]
    return scaled


def _usable(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return the places in a block of the embeddings that have a direction, and these directions.

    Returns:
        int64 array of shape (n,), and float64 array of shape (n, dim) of vectors of length 1.
    """
    vectors = block.embeddings.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    places = np.flatnonzero(block.ok & np.isfinite(lengths) & (lengths > 0))
    return places, vectors[places] / lengths[places, None]


def _merged(
    best: list[Neighbor], block: Block, places: np.ndarray, cosines: np.ndarray, k: int
) -> list[Neighbor]:
    """Return the best of what was found before and of the rows at ``places`` of a block."""
    floor = best[-1].similarity if len(best) == k else -np.inf
    if len(cosines) > k:
        floor = max(floor, np.partition(cosines, -k)[-k])
    near = (cosines >= floor) & (cosines > -np.inf)
    found = [
        Neighbor(block.paths[place].as_py(), cosine, block.start + place)
        for place, cosine in zip(places[near].tolist(), cosines[near].tolist(), strict=True)
    ]
    return sorted([*best, *found], key=lambda one: (-one.similarity, one.path, one.row))[:k]


def _has_any(block: Block, proposed: Sequence[np.ndarray]) -> bool:
    return any(_among(block, rows).any() for rows in proposed)


def _among(block: Block, rows: np.ndarray) -> np.ndarray:
    """Say which rows of a block are among some rows of the file."""
    chosen = np.zeros(len(block.ok), bool)
    inside = rows[(rows >= block.start) & (rows < block.start + len(chosen))]
    chosen[inside - block.start] = True
    return chosen


def _ask_faiss(file: EmbeddingsFile, directions: np.ndarray, count: int) -> list[np.ndarray]:
    """Have FAISS propose rows: the largest inner products of vectors of length 1."""
    index = library_of("faiss").IndexFlatIP(file.dim)
    rows = _each_good(file, lambda _, vectors: index.add(vectors))
    if not len(rows):
        return [rows] * len(directions)
    _, found = index.search(directions.astype(np.float32), min(count, len(rows)))
    return [rows[places[places >= 0]] for places in found]


def _ask_usearch(file: EmbeddingsFile, directions: np.ndarray, count: int) -> list[np.ndarray]:
    """Have usearch propose rows: a walk through a graph of near ones."""
    index = library_of("usearch").Index(ndim=file.dim, metric="cos", dtype="f32")
    rows = _each_good(file, lambda keys, vectors: index.add(keys.astype(np.uint64), vectors))
    if not len(rows):
        return [rows] * len(directions)
    queries = directions.astype(np.float32)
    return [index.search(query, min(count, len(rows))).keys.astype(np.int64) for query in queries]


_LIBRARIES = {"faiss": "faiss", "usearch": "usearch.index"}
_PROPOSERS = {"faiss": _ask_faiss, "usearch": _ask_usearch}


def _each_good(file: EmbeddingsFile, add: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
    """Hand on the good rows of a file, scaled to length 1, and return their numbers."""
    numbers = [np.empty(0, np.int64)]
    for block in file.blocks():
        places, units = _usable(block)
        if len(places):
            add(block.start + places, units.astype(np.float32))
            numbers.append(block.start + places)
    return np.concatenate(numbers)


def library_of(index: Index) -> Any:
    """Import the library that an index is of; None where it needs none.

    Raises:
        HeadstripError: It is not installed.
    """
    if index == "exact":
        return None
    try:
        return import_module(_LIBRARIES[index])
    except ImportError as error:
        raise HeadstripError(
            f"index={index!r} needs a library that cannot be imported ({error}). Install it: "
            f"pip install 'headstrip[{index}]'."
        ) from error
