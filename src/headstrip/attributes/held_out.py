"""Confusions, calibration and mistakes in the predictions for held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstrip.attributes.measures import BINS, softmax
from headstrip.encoder.attribute import Kind
from headstrip.encoder.held_out import HeldOut


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration curve: one value for each bin that has a prediction.

    Attributes:
        confidence: Mean probability in each bin.
        share: Share of the predictions that are right, or of the images that have the label.
        counts: Number of predictions in each bin.
    """

    confidence: list[float]
    share: list[float]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong prediction.

    Attributes:
        row: The image, as a row of ``HeldOut``.
        error: Probability of the wrong answer; for a number the absolute error.
        label: Index of the wrong label for an attribute with several labels; otherwise None.
    """

    row: int
    error: float
    label: int | None = None


def held_out_of(
    kind: Kind,
    paths: Sequence[str],
    classes: Sequence[str],
    truth: np.ndarray,
    outputs: np.ndarray,
    temperature: float,
) -> HeldOut:
    """Turn the outputs for held-out images into predictions.

    Args:
        kind: Kind of the attribute.
        paths: Paths of the N images.
        classes: Names of the classes; those that were not fitted come last.
        truth: The labels, as in ``HeldOut``.
        outputs: float64 array of shape (N, outputs).
        temperature: The divisor of the logits for ``calibrated``.
    """
    names = tuple(classes)
    if kind == "number":
        return HeldOut(tuple(paths), names, truth, outputs[:, 0])
    if kind == "labels":
        chances = 0.5 * (1 + np.tanh(outputs / 2))
        return HeldOut(tuple(paths), names, truth, outputs >= 0, chances)
    return HeldOut(
        tuple(paths),
        names,
        truth,
        outputs.argmax(1),
        softmax(outputs).max(1),
        softmax(outputs / temperature).max(1),
    )


def confusions(held: HeldOut) -> dict[tuple[int, int], int]:
    """Count wrong predictions by the indices of the true and the predicted class."""
    size = len(held.classes)
    cells, counts = np.unique(held.truth * size + held.predicted, return_counts=True)
    return {
        divmod(cell, size): count
        for cell, count in zip(cells.tolist(), counts.tolist(), strict=True)
    }


def calibration(probability: np.ndarray, is_right: np.ndarray) -> Calibration:
    """Return the curve over the bins of the expected calibration error, which have equal width."""
    probability, is_right = probability.ravel(), is_right.ravel().astype(float)
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    chosen = counts > 0
    return Calibration(
        (np.bincount(bins, probability, BINS)[chosen] / counts[chosen]).tolist(),
        (np.bincount(bins, is_right, BINS)[chosen] / counts[chosen]).tolist(),
        counts[chosen].tolist(),
    )


def mistakes(held: HeldOut) -> list[Mistake]:
    """Return each image with a wrong prediction, the most confident mistake first.

    An image with several labels counts once, with the label that is most confidently wrong. For
    numbers every error counts, the largest first.
    """
    if held.probability is None:
        errors = np.abs(held.predicted - held.truth)
        found = [Mistake(row, float(errors[row])) for row in np.flatnonzero(errors).tolist()]
    elif held.truth.ndim == 1:
        rows = np.flatnonzero(held.predicted != held.truth).tolist()
        found = [Mistake(row, float(held.probability[row])) for row in rows]
    else:
        wrong = held.predicted != held.truth
        confidence = np.where(held.truth, 1 - held.probability, held.probability) * wrong
        found = [
            Mistake(row, float(confidence[row].max()), int(confidence[row].argmax()))
            for row in np.flatnonzero(wrong.any(1)).tolist()
        ]
    return sorted(found, key=lambda one: (-one.error, held.paths[one.row]))
