"""Find the nearest images by the cosine similarity of their embeddings.

Only ``find_neighbors``, which embeds the query images, imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from headstrip.embed.output.loading import Block, EmbeddingsFile, open_embeddings
from headstrip.errors import HeadstripError
from headstrip.system.arguments import check_path

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

Index = Literal["exact", "faiss", "usearch"]
"""How to search: compare every row, or only the rows that a library proposes."""

_DECIMALS = 12


class Neighbor(NamedTuple):
    """One neighbour of a query image.

    Attributes:
        path: Path of the image in the embeddings file.
        similarity: Cosine of the angle between the two embeddings, from -1 to 1.
        row: Row in the embeddings file, counted from 0.
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
    """Find the images in an embeddings file that are most similar to query images.

    Args:
        embeddings: A file that ``headstrip embed`` wrote.
        images: The query images, in any form that ``encoder.embed`` takes.
        k: Number of neighbours to find for each image.
        encoder: The encoder that computed the file. None builds it from the file's metadata.
        index: How to search; see ``nearest``.

    Returns:
        One list of neighbours per image, the nearest first.

    Raises:
        HeadstripError: The file cannot be read, another encoder computed it (the message names
            the difference), or the library of ``index`` is not installed.
        ImageError: An image cannot be read.
        OptionError: ``embeddings`` is not a path, or ``encoder`` not an encoder.
        ValueError: ``k`` or ``index`` is not valid.

    Example:
        >>> find_neighbors("photos.parquet", ["cat.jpg"], k=1)  # doctest: +SKIP
        [[Neighbor(path='cat.png', similarity=0.998..., row=0)]]
    """
    from headstrip.embed.rebuild_encoder import build_encoder_of, check_encoder, check_width

    check_path("embeddings", embeddings, "photos.parquet")
    _check(k, index)
    file = open_embeddings(embeddings)
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
    """Find the rows of a file whose embeddings have the largest cosine with each query.

    The function holds one block of the file in memory at a time. It computes the cosine in float64
    and rounds it to 12 decimals; images with equal cosines are sorted by path. Images without an
    embedding, and embeddings that are zero or not finite, are never neighbours.

    Args:
        file: The result of ``open_embeddings``.
        queries: Array of shape (queries, dim).
        k: Number of neighbours to find for each query.
        index: ``"exact"`` compares every row. ``"faiss"`` (``IndexFlatIP``) and ``"usearch"``
            (an approximate graph) hold all embeddings in memory as float32 and propose rows; the
            cosine above then chooses among these.

    Returns:
        For each query ``k`` neighbours, or fewer if the file has fewer, the nearest first.

    Raises:
        HeadstripError: The file is damaged, or the library of ``index`` is not installed.
        ValueError: ``k``, ``index``, or the shape or a value of ``queries`` is not valid.
    """
    _check(k, index)
    directions = _directions(file, np.asarray(queries))
    proposed = _PROPOSERS[index](file, directions, 4 * k + 16) if index in _PROPOSERS else None
    best: list[list[Neighbor]] = [[] for _ in directions]
    for block in file.blocks():
        if proposed is not None and not _has_any(block, proposed):
            continue
        usable, units = _usable(block)
        for query, direction in enumerate(directions):
            # In a matrix product the last bits of a row depend on its position. So two equal
            # embeddings could get different cosines. einsum does not have this problem.
            cosines = np.round(np.einsum("ij,j->i", units, direction), _DECIMALS)
            if proposed is not None:
                cosines[~_among(block, proposed[query])[usable]] = -np.inf
            best[query] = _merged(best[query], block, usable, cosines, k)
    return best


def _check(k: int, index: str) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k={k!r} is not a number of neighbours. Pass an integer of 1 or more.")
    if index not in get_args(Index):
        raise ValueError(f"index={index!r} is unknown. Pass one of {', '.join(get_args(Index))}.")


def _directions(file: EmbeddingsFile, queries: np.ndarray) -> np.ndarray:
    """Scale queries to length 1, as float64."""
    if queries.ndim != 2 or queries.shape[1] != file.dim:
        raise ValueError(
            f"queries must have the shape (queries, {file.dim}), as the embeddings in "
            f"{str(file.path)!r} have {file.dim} numbers, got the shape {queries.shape}. Pass one "
            "row per query."
        )
    vectors = queries.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise ValueError(
            f"Query {bad[0]} of {len(queries)} (counted from 0) is zero or not finite, so it "
            "has no neighbours. Leave it out."
        )
    scaled: np.ndarray = vectors / lengths[:, None]
    return scaled


def _usable(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a block whose embedding is finite and not zero, scaled to length 1.

    Returns:
        Indices in the block, int64 array of shape (n,); and unit vectors, float64 array of shape
        (n, dim).
    """
    vectors = block.embeddings.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    usable = np.flatnonzero(block.ok & np.isfinite(lengths) & (lengths > 0))
    return usable, vectors[usable] / lengths[usable, None]


def _merged(
    best: list[Neighbor], block: Block, rows: np.ndarray, cosines: np.ndarray, k: int
) -> list[Neighbor]:
    """Return the best ``k`` of the earlier neighbours and some rows of a block together."""
    floor = best[-1].similarity if len(best) == k else -np.inf
    if len(cosines) > k:
        floor = max(floor, np.partition(cosines, -k)[-k])
    near = (cosines >= floor) & (cosines > -np.inf)
    found = [
        Neighbor(block.paths[row].as_py(), cosine, block.start + row)
        for row, cosine in zip(rows[near].tolist(), cosines[near].tolist(), strict=True)
    ]
    return sorted([*best, *found], key=lambda one: (-one.similarity, one.path, one.row))[:k]


def _has_any(block: Block, proposed: Sequence[np.ndarray]) -> bool:
    return any(_among(block, rows).any() for rows in proposed)


def _among(block: Block, rows: np.ndarray) -> np.ndarray:
    """Return a boolean mask over a block: which of its rows are in ``rows`` of the file."""
    chosen = np.zeros(len(block.ok), bool)
    inside = rows[(rows >= block.start) & (rows < block.start + len(chosen))]
    chosen[inside - block.start] = True
    return chosen


def _ask_faiss(file: EmbeddingsFile, directions: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the rows with the largest inner products of unit vectors, found by FAISS."""
    index = library_of("faiss").IndexFlatIP(file.dim)
    rows = _add_usable(file, lambda _, vectors: index.add(vectors))
    if not len(rows):
        return [rows] * len(directions)
    _, found = index.search(directions.astype(np.float32), min(count, len(rows)))
    return [rows[numbers[numbers >= 0]] for numbers in found]


def _ask_usearch(file: EmbeddingsFile, directions: np.ndarray, count: int) -> list[np.ndarray]:
    """Return near rows, which usearch finds in its graph of neighbours."""
    index = library_of("usearch").Index(ndim=file.dim, metric="cos", dtype="f32")
    rows = _add_usable(file, lambda keys, vectors: index.add(keys.astype(np.uint64), vectors))
    if not len(rows):
        return [rows] * len(directions)
    queries = directions.astype(np.float32)
    return [index.search(query, min(count, len(rows))).keys.astype(np.int64) for query in queries]


_LIBRARIES = {"faiss": "faiss", "usearch": "usearch.index"}
_PROPOSERS = {"faiss": _ask_faiss, "usearch": _ask_usearch}


def _add_usable(file: EmbeddingsFile, add: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
    """Call ``add`` with the usable rows of each block, and return the numbers of all of them."""
    numbers = [np.empty(0, np.int64)]
    for block in file.blocks():
        usable, units = _usable(block)
        if len(usable):
            add(block.start + usable, units.astype(np.float32))
            numbers.append(block.start + usable)
    return np.concatenate(numbers)


def library_of(index: Index) -> Any:
    """Import and return the library of an index; return None for "exact".

    Raises:
        HeadstripError: The library is not installed.
    """
    if index == "exact":
        return None
    try:
        return import_module(_LIBRARIES[index])
    except ImportError as error:
        raise HeadstripError(
            f"index={index!r} needs a library that cannot be imported ({error}). Run "
            f"`pip install 'headstrip[{index}]'`."
        ) from error
