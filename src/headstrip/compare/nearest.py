"""k nearest neighbours by cosine similarity, with the results of scikit-learn.

Similarities are computed in float64 and rounded to 12 digits. So equal embeddings tie, although
matrix products may add in different orders. If neighbours tie, the first row counts. Only then
scikit-learn may choose another row, because it uses a partial sort.
"""

from __future__ import annotations

import numpy as np

from headstrip.encoder.attribute import Kind

NEIGHBORS = 5

_QUERIES = 1_024
_ROWS = 4_096
_DIGITS = 12


def predict_nearest(
    embeddings: np.ndarray,
    train: np.ndarray,
    values: np.ndarray,
    test: np.ndarray,
    kind: Kind,
    outputs: int,
    neighbors: int = NEIGHBORS,
) -> np.ndarray:
    """Predict labels from the labels of the nearest neighbours.

    Args:
        embeddings: float32 array of shape (N, dim).
        train: Rows with known labels.
        values: Labels of these rows: indices for ``class``, bool (rows, outputs) for ``labels``,
            float64 for ``number``.
        test: Rows to predict.
        kind: The kind of the labels.
        outputs: Number of classes.
        neighbors: Number of neighbours.

    Returns:
        For ``class`` the most frequent class of the neighbours, int (M,), and in a tie the class
        with the smallest index; for ``labels`` the share of the neighbours that have each label,
        (M, outputs); for ``number`` the mean of the neighbours, (M,).
    """
    found = nearest_rows(embeddings, train, test, neighbors)
    labels = values[found]
    if kind != "class":
        averaged: np.ndarray = labels.mean(1)
        return averaged
    votes = np.zeros((len(test), outputs), np.int64)
    np.add.at(votes, (np.arange(len(test))[:, None], labels), 1)
    most: np.ndarray = votes.argmax(1)
    return most


def nearest_rows(
    embeddings: np.ndarray, train: np.ndarray, test: np.ndarray, neighbors: int
) -> np.ndarray:
    """Return the positions in ``train`` of the nearest rows, the nearest first, shape (M, k)."""
    count = min(neighbors, len(train))
    found = np.empty((len(test), count), np.int64)
    for start in range(0, len(test), _QUERIES):
        queries = _normalized(embeddings[test[start : start + _QUERIES]])
        best = np.full((len(queries), 0), -np.inf)
        rows = np.zeros((len(queries), 0), np.int64)
        for first in range(0, len(train), _ROWS):
            others = _normalized(embeddings[train[first : first + _ROWS]])
            similar = np.round(queries @ others.T, _DIGITS)
            chosen = _top(similar, count)
            best = np.concatenate([best, np.take_along_axis(similar, chosen, 1)], 1)
            rows = np.concatenate([rows, chosen + first], 1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :count]
            best, rows = np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)
        found[start : start + len(queries)] = rows
    return found


def _normalized(embeddings: np.ndarray) -> np.ndarray:
    """Return float64 rows scaled to length 1; rows of zeros stay zeros."""
    wide = embeddings.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    lengths[lengths == 0] = 1
    wide /= lengths[:, None]
    return wide


def _top(similar: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the largest values of each row, ascending; in a tie the first ones."""
    columns = similar.shape[1]
    if columns <= count:
        return np.broadcast_to(np.arange(columns), similar.shape)
    chosen = np.argpartition(similar, columns - count, axis=1)[:, columns - count :]
    values = np.take_along_axis(similar, chosen, 1)
    smallest = values.min(1, keepdims=True)
    is_cut = (similar == smallest).sum(1) > (values == smallest).sum(1)
    for row in np.flatnonzero(is_cut):
        chosen[row] = np.argsort(-similar[row], kind="stable")[:count]
    chosen.sort(1)
    return chosen
