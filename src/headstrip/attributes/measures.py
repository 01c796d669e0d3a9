"""How good predictions are: measures over images, with intervals by bootstrap.

The measures have the definitions of scikit-learn; the tests compare them. Each measure takes a
count for every image, so a bootstrap sample is a vector of counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

BINS = 15
"""Number of bins of the expected calibration error."""

SAMPLES = 1_000
"""Number of bootstrap samples."""

_TINY = float(np.finfo(np.float64).eps)
_TEMPERATURES = (0.05, 20.0)

Measure = Callable[[np.ndarray], float]
"""Maps counts of images, shape (N,), to a value; NaN if the value is not defined."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A measure with its 95 % interval.

    Attributes:
        value: The measure on the images.
        low: 2.5 % quantile over bootstrap samples; equal to ``value`` without samples.
        high: 97.5 % quantile.
    """

    value: float
    low: float
    high: float


def measures_of_classes(
    truth: np.ndarray, logits: np.ndarray, temperature: float
) -> dict[str, Measure]:
    """Return the measures of an attribute with one class per image.

    Args:
        truth: Index of the class of each image, shape (N,).
        logits: float64 array of shape (N, classes).
        temperature: The divisor of the logits for ``ece_temperature``.
    """
    guess = logits.argmax(1)
    is_right = (guess == truth).astype(float)
    return {
        **measures_of_guesses(truth, guess, logits.shape[1]),
        "log_loss": _average(log_losses(truth, logits)),
        "ece": _calibration(softmax(logits).max(1), is_right),
        "ece_temperature": _calibration(softmax(logits / temperature).max(1), is_right),
    }


def measures_of_confidences(
    truth: np.ndarray,
    guess: np.ndarray,
    classes: int,
    losses: np.ndarray,
    confidence: np.ndarray,
    calibrated: np.ndarray,
) -> dict[str, Measure]:
    """Return the result of ``measures_of_classes`` without the logits, which may take much memory.

    Args:
        truth: Index of the class of each image, shape (N,).
        guess: Index of the predicted class of each image, shape (N,).
        classes: Number of classes.
        losses: Log loss of each image.
        confidence: Probability of the predicted class.
        calibrated: The same for logits divided by the temperature.
    """
    is_right = (guess == truth).astype(float)
    return {
        **measures_of_guesses(truth, guess, classes),
        "log_loss": _average(losses),
        "ece": _calibration(confidence, is_right),
        "ece_temperature": _calibration(calibrated, is_right),
    }


def measures_of_guesses(truth: np.ndarray, guess: np.ndarray, classes: int) -> dict[str, Measure]:
    """Return the measures of predicted classes that need no probability.

    Args:
        truth: Index of the class of each image, shape (N,).
        guess: Index of the class that is predicted.
        classes: Number of classes.
    """
    is_right = (guess == truth).astype(float)
    cells = truth * classes + guess

    def confusion(counts: np.ndarray) -> np.ndarray:
        return np.bincount(cells, counts, classes * classes).reshape(classes, classes)

    def balanced(counts: np.ndarray) -> float:
        table = confusion(counts)
        totals = table.sum(1)
        return _mean_of(table.diagonal()[totals > 0] / totals[totals > 0])

    def f1(counts: np.ndarray) -> float:
        table = confusion(counts)
        totals = table.sum(0) + table.sum(1)
        return _mean_of(2 * table.diagonal()[totals > 0] / totals[totals > 0])

    return {
        "accuracy": _average(is_right),
        "balanced_accuracy": balanced,
        "macro_f1": f1,
    }


def measures_of_labels(truth: np.ndarray, logits: np.ndarray) -> dict[str, Measure]:
    """Return the measures of an attribute with any number of labels per image.

    Args:
        truth: bool array of shape (N, labels).
        logits: float64 array of shape (N, labels).
    """
    losses = np.logaddexp(0, np.where(truth, -logits, logits)).mean(1)
    is_right = ((logits >= 0) == truth).mean(1)
    precisions = [_precision(truth[:, one], logits[:, one]) for one in range(truth.shape[1])]

    def mean_precision(counts: np.ndarray) -> float:
        found = np.array([one(counts) for one in precisions])
        return _mean_of(found[~np.isnan(found)])

    def f1(counts: np.ndarray) -> float:
        both = counts @ (truth & (logits >= 0))
        totals = counts @ truth + counts @ (logits >= 0)
        return _mean_of(2 * both[totals > 0] / totals[totals > 0])

    return {
        "map": mean_precision,
        "accuracy": _average(is_right),
        "macro_f1": f1,
        "log_loss": _average(losses),
    }


def measures_of_numbers(truth: np.ndarray, guess: np.ndarray) -> dict[str, Measure]:
    """Return the measures of a number, from two float64 arrays of shape (N,)."""
    squares = np.square(truth - guess)

    def r2(counts: np.ndarray) -> float:
        mean = counts @ truth / counts.sum()
        total = counts @ np.square(truth - mean)
        return 1 - counts @ squares / total if total > 0 else float("nan")

    return {"mae": _average(np.abs(truth - guess)), "r2": r2}


def with_intervals(
    measures: Mapping[str, Measure], images: int, seed: int, samples: int = SAMPLES
) -> dict[str, Interval]:
    """Evaluate measures on all images, and on bootstrap samples of them.

    Args:
        measures: The measures by name.
        images: Number of images.
        seed: Seed of the samples.
        samples: Number of samples; 0 for no intervals.
    """
    ones = np.ones(images)
    values = {name: measure(ones) for name, measure in measures.items()}
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(samples):
        counts = np.bincount(generator.integers(0, images, images), minlength=images).astype(float)
        for name, measure in measures.items():
            found[name].append(measure(counts))
    return {name: interval_of(values[name], np.array(found[name])) for name in measures}


def log_losses(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the log loss of each image, from class indices (N,) and logits (N, classes)."""
    shifted = logits - logits.max(1, keepdims=True)
    chosen = np.take_along_axis(shifted, truth[:, None], 1)[:, 0]
    losses: np.ndarray = np.log(np.exp(shifted).sum(1)) - chosen
    # scikit-learn clips probabilities in the same way.
    clipped: np.ndarray = np.minimum(losses, -np.log(_TINY))
    return clipped


def softmax(logits: np.ndarray) -> np.ndarray:
    """Map logits (N, classes) to probabilities."""
    exponentials: np.ndarray = np.exp(logits - logits.max(1, keepdims=True))
    chances: np.ndarray = exponentials / exponentials.sum(1, keepdims=True)
    return chances


def best_temperature(truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the divisor of the logits that gives the smallest log loss (Guo et al. 2017).

    The log loss is convex in the inverse of the temperature, so golden-section search finds it.
    """
    low, high = (1 / one for one in reversed(_TEMPERATURES))
    ratio = (5**0.5 - 1) / 2

    def loss(inverse: float) -> float:
        return float(log_losses(truth, logits * inverse).mean())

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(60):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return 2 / (low + high)


def _average(values: np.ndarray) -> Measure:
    return lambda counts: float(counts @ values / counts.sum())


def _mean_of(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _calibration(confidence: np.ndarray, is_right: np.ndarray) -> Measure:
    """Return the expected calibration error over bins of equal width."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = is_right - confidence

    def measure(counts: np.ndarray) -> float:
        return float(np.abs(np.bincount(bins, counts * gap, BINS)).sum() / counts.sum())

    return measure


def _precision(truth: np.ndarray, scores: np.ndarray) -> Measure:
    """Return the average precision of one label; NaN if no image has it."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    is_last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)
    hits = truth[order].astype(float)

    def measure(counts: np.ndarray) -> float:
        weights = counts[order]
        found, seen = np.cumsum(weights * hits)[is_last], np.cumsum(weights)[is_last]
        if not len(found) or found[-1] == 0:
            return float("nan")
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        return float(np.diff(found, prepend=0) @ precision / found[-1])

    return measure


def interval_of(value: float, samples: np.ndarray) -> Interval:
    """Return a measure with its 95 % interval over the bootstrap samples that are not NaN."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return Interval(value, value, value)
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(value, float(low), float(high))
