"""Read a file of embeddings that does not fit in memory, some rows at a time.

This module does not import torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from headstrip.attributes.joining import Images, checksums_in
from headstrip.embed.output.loading import EmbeddingsFile, open_embeddings
from headstrip.embed.rebuild_encoder import described_in

_POOL_BYTES = 1 << 28
_DIGEST_BYTES = 16


def images_of_stream(path: str | os.PathLike[str]) -> Images:
    """Read a file as ``images_of_file`` does, with a digest in place of each embedding.

    Raises:
        HeadstripError: The file cannot be read, or does not state its encoder.
    """
    file = open_embeddings(path)
    encoder = described_in(file)
    paths: list[str] = []
    ok = np.empty(file.rows, bool)
    digests = np.empty((file.rows, _DIGEST_BYTES), np.uint8)
    for block in file.blocks():
        rows = slice(block.start, block.start + len(block.ok))
        ok[rows] = block.ok & np.isfinite(block.embeddings).all(1)
        for row, embedding in enumerate(block.embeddings.astype(np.float32), block.start):
            digest = hashlib.blake2b(embedding.tobytes(), digest_size=_DIGEST_BYTES).digest()
            digests[row] = np.frombuffer(digest, np.uint8)
        paths += block.paths.to_pylist()
    return Images(repr(os.fspath(path)), paths, digests, ok, checksums_in(file), encoder)


def shuffled_batches(
    file: EmbeddingsFile, size: int, generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all rows once, in an order that mixes rows from all over the file.

    In many files the images of a class come one after another. So headstrip reads the row groups in
    random order, fills up to 256 MiB with rows, and shuffles these rows.

    Yields:
        Numbers of rows, int64 (N,), in random order; and their embeddings, float32 (N, dim), for
        batches of up to ``size`` rows.
    """
    capacity = max(1, min(file.rows, _POOL_BYTES // (4 * file.dim)))
    rows, pool = np.empty(capacity, np.int64), np.empty((capacity, file.dim), np.float32)
    filled = 0

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = generator.permutation(filled)
        for start in range(0, filled, size):
            chosen = order[start : start + size]
            yield rows[chosen], pool[chosen]

    for block in file.blocks(groups=generator.permutation(file.groups).tolist()):
        at = 0
        while at < len(block.ok):
            taken = min(len(block.ok) - at, capacity - filled)
            rows[filled : filled + taken] = np.arange(taken) + block.start + at
            pool[filled : filled + taken] = block.embeddings[at : at + taken]
            filled, at = filled + taken, at + taken
            if filled == capacity:
                yield from batches()
                filled = 0
    yield from batches()
