"""The linear probe: the predictor of ``headstrip fit``, fitted once per fold.

The images of the fold influence no choice: standardising, the strength of the penalty and the
temperature use the images of the other folds only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from headstrip.attributes.fit import STRENGTHS
from headstrip.attributes.measures import best_temperature, log_losses
from headstrip.attributes.solving import COARSE, FINE, Layers, bytes_to_solve, solve
from headstrip.attributes.splitting import TRAIN, VALIDATION, Fractions, split
from headstrip.attributes.standardize import Axes, standardize
from headstrip.compare.folds import Task
from headstrip.encoder.attribute import Kind

MOST_IMAGES = 10_000
"""Largest number of images to fit a probe to. It limits memory and time."""

_VALIDATION = 0.2
_WITHOUT_VALIDATION = 0.1
"""The strength if the training part has too few images to choose one."""

_BATCH_BYTES = 1 << 26
"""Memory for the strengths that are fitted at once."""

_ROWS = 4_096
"""Number of images that are converted or predicted at once."""


@dataclass(frozen=True)
class ProbeFold:
    """The predictions of the probe for the images of one fold.

    Attributes:
        train: Positions in the task of the images that it was fitted to.
        test: Positions in the task of the images that it predicts.
        outputs: float64 array of shape (test images, outputs): logits, or a number.
        strength: The chosen strength.
        temperature: The divisor of the logits that calibrates them; 1 unless the kind is ``class``.
        converged: Whether the optimisation converged.
    """

    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    outputs: np.ndarray = field(repr=False)
    strength: float
    temperature: float
    converged: bool


def probe_fold(
    embeddings: np.ndarray,
    task: Task,
    fold: int,
    seed: int,
    *,
    values: np.ndarray | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> ProbeFold:
    """Fit the probe to the other folds, and predict the images of one fold.

    Args:
        embeddings: float32 array of shape (images, dim).
        task: The attribute and its folds.
        fold: The fold to predict.
        seed: Seed of the part on which the strength is chosen.
        values: Other labels, such as shuffled ones; by default those of the task.
        strengths: Values of ``C`` to choose from, ascending.
    """
    values = task.target.values if values is None else values
    train, test = _training_part(task, fold, seed), np.flatnonzero(task.folds == fold)
    strength, temperature = _chosen(embeddings, values, task, train, seed, strengths)
    (final,) = _solved(embeddings, values, task, train, [strength], exact=True)
    outputs = _outputs(final, 0, embeddings, task.target.rows[test])
    return ProbeFold(train, test, outputs, strength, temperature, all(final.converged))


def _training_part(task: Task, fold: int, seed: int) -> np.ndarray:
    """Return the images outside a fold; if they are too many, a share of each stratum."""
    train = np.flatnonzero(task.folds != fold)
    if len(train) <= MOST_IMAGES:
        return train
    left_out = Fractions(1 - MOST_IMAGES / len(train), 0.0)
    kept: np.ndarray = train[_parts(task, train, seed, left_out) == TRAIN]
    return kept


def _chosen(
    embeddings: np.ndarray,
    values: np.ndarray,
    task: Task,
    train: np.ndarray,
    seed: int,
    strengths: Sequence[float],
) -> tuple[float, float]:
    """Return the strength with the smallest loss on held-out training images, and a temperature."""
    parts = _parts(task, train, seed, Fractions(0.0, _VALIDATION))
    fitted, held = parts == TRAIN, parts == VALIDATION
    if not held.any() or not fitted.any():
        return _WITHOUT_VALIDATION, 1.0
    kind, truth = task.kind, values[train[held]]
    best, strength, logits = math.inf, _WITHOUT_VALIDATION, None
    at = iter(strengths)
    for layers in _solved(embeddings, values, task, train[fitted], strengths):
        for index in range(len(layers.converged)):
            found = _outputs(layers, index, embeddings, task.target.rows[train[held]])
            loss, tried = _loss(kind, truth, found), next(at)
            # If losses are equal, the first one stays, which has the stronger penalty.
            if loss < best:
                best, strength, logits = loss, tried, found
    if kind != "class" or logits is None:
        return strength, 1.0
    return strength, best_temperature(*_known(truth, logits))


def _parts(task: Task, rows: np.ndarray, seed: int, size: Fractions) -> np.ndarray:
    chosen = rows.tolist()
    strata, keys = [task.strata[row] for row in chosen], [task.keys[row] for row in chosen]
    return split(strata, task.groups[rows], keys, seed, size)


def _outputs(layers: Layers, index: int, embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the outputs of some images; convert a few images at a time to float64."""
    found = np.empty((len(rows), layers.biases.shape[1]))
    for start in range(0, len(rows), _ROWS):
        some = _float64(embeddings, rows[start : start + _ROWS])
        found[start : start + len(some)] = layers.outputs(index, some)
    return found


def _solved(
    embeddings: np.ndarray,
    values: np.ndarray,
    task: Task,
    fitted: np.ndarray,
    strengths: Sequence[float],
    *,
    exact: bool = False,
) -> list[Layers]:
    """Fit to some images, a few strengths at a time, to limit memory."""
    kind, outputs = task.kind, task.target.attribute.outputs
    points, scale = standardize(_float64(embeddings, task.target.rows[fitted]))
    rows, dim = points.shape
    axes = Axes.of(points) if rows >= dim and kind != "number" else None
    size = max(1, _BATCH_BYTES // bytes_to_solve(rows, dim, outputs))
    return [
        solve(
            points,
            values[fitted],
            kind,
            outputs,
            strengths[start : start + size],
            FINE if exact else COARSE,
            axes=axes,
            is_balanced=False,
            scale=scale,
        )
        for start in range(0, len(strengths), size)
    ]


def _float64(embeddings: np.ndarray, rows: np.ndarray) -> Tensor:
    """Return some rows as float64, without a copy of them in float32."""
    found = np.empty((len(rows), embeddings.shape[1]))
    for start in range(0, len(rows), _ROWS):
        found[start : start + _ROWS] = embeddings[rows[start : start + _ROWS]]
    return torch.from_numpy(found)


def _loss(kind: Kind, values: np.ndarray, outputs: np.ndarray) -> float:
    """Return the loss by which strengths are compared: log loss, or squared error for numbers."""
    if kind == "number":
        return float(np.square(outputs[:, 0] - values).mean())
    if kind == "labels":
        return float(np.logaddexp(0, np.where(values, -outputs, outputs)).mean())
    known, logits = _known(values, outputs)
    return float(log_losses(known, logits).mean()) if len(known) else math.inf


def _known(values: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out images of classes that the fitted images lack."""
    is_known = np.isfinite(outputs[np.arange(len(values)), values])
    return values[is_known], outputs[is_known]
