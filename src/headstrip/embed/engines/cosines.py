"""How alike embeddings are, row by row."""

from __future__ import annotations

import numpy as np


def cosines(embeddings: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the cosine of each row (N, dim) to the same row of the reference, as float64 (N,).

    Two rows of zeros have the cosine 1, one of them 0.
    """
    left, right = embeddings.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = (left * right).sum(axis=1)
    alike = (left == right).all(axis=1).astype(np.float64)
    found: np.ndarray = np.where(lengths == 0, alike, products / np.where(lengths, lengths, 1))
    return found
