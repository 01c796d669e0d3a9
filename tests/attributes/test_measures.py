"""Measures match scikit-learn, and intervals have the right width."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from headstrip.attributes.measures import (
    BINS,
    best_temperature,
    measures_of_classes,
    measures_of_labels,
    measures_of_numbers,
    softmax,
    with_intervals,
)


def drawn(seed: int, rows: int = 200, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes - 1, rows)
    logits = 2 * generator.normal(size=(rows, classes))
    logits[np.arange(rows), truth] += 1.5
    return truth, logits


def resampled(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows drawn with replacement, and how often each was drawn."""
    chosen = np.random.default_rng(seed).integers(0, rows, rows)
    return chosen, np.bincount(chosen, minlength=rows).astype(float)


@pytest.mark.parametrize("seed", range(3))
def test_measures_of_classes_match_scikit_learn(seed: int) -> None:
    truth, logits = drawn(seed)
    chosen, counts = resampled(seed, len(truth))
    found = measures_of_classes(truth, logits, 1.0)
    there, guess = truth[chosen], logits[chosen].argmax(1)
    expected = {
        "accuracy": metrics.accuracy_score(there, guess),
        "balanced_accuracy": np.mean(
            [(guess[there == one] == one).mean() for one in np.unique(there)]
        ),
        "macro_f1": metrics.f1_score(there, guess, average="macro"),
        "log_loss": metrics.log_loss(there, softmax(logits[chosen]), labels=range(5)),
    }
    for name, value in expected.items():
        assert found[name](counts) == pytest.approx(value, abs=1e-12)


def test_the_calibration_error_is_the_weighted_gap_of_each_bin() -> None:
    truth, logits = drawn(3)
    found = measures_of_classes(truth, logits, 2.0)
    for name, chances in (("ece", softmax(logits)), ("ece_temperature", softmax(logits / 2))):
        confidence, right = chances.max(1), chances.argmax(1) == truth
        bins, expected = np.floor(confidence * BINS), 0.0
        for one in np.unique(bins):
            of_bin = bins == one
            gap = abs(confidence[of_bin].mean() - right[of_bin].mean())
            expected += of_bin.mean() * gap
        assert found[name](np.ones(len(truth))) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_measures_of_labels_match_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.random((120, 4)) < 0.3
    # Rounded, so that scores are equal.
    logits = np.round(generator.normal(size=(120, 4)) + 2 * truth, 1)
    truth[:, 3] = False
    chosen, counts = resampled(seed, 120)
    found = measures_of_labels(truth, logits)
    there, scores = truth[chosen], logits[chosen]
    precisions = [metrics.average_precision_score(there[:, k], scores[:, k]) for k in range(3)]
    assert found["map"](counts) == pytest.approx(np.mean(precisions))
    f1 = metrics.f1_score(there, scores >= 0, average=None, zero_division=0)
    assert found["macro_f1"](counts) == pytest.approx(f1.mean())
    chances = 1 / (1 + np.exp(-scores))
    losses = [metrics.log_loss(there[:, k], chances[:, k], labels=[False, True]) for k in range(4)]
    assert found["log_loss"](counts) == pytest.approx(np.mean(losses))


def test_measures_of_numbers_match_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=80)
    guess = truth + generator.normal(size=80)
    chosen, counts = resampled(1, 80)
    found = measures_of_numbers(truth, guess)
    assert found["mae"](counts) == pytest.approx(
        metrics.mean_absolute_error(truth[chosen], guess[chosen])
    )
    assert found["r2"](counts) == pytest.approx(metrics.r2_score(truth[chosen], guess[chosen]))


def test_the_interval_of_accuracy_matches_the_binomial_distribution() -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros(400, int)
    logits = np.stack([np.zeros(400), np.where(generator.random(400) < 0.3, 1.0, -1.0)], 1)
    found = with_intervals(measures_of_classes(truth, logits, 1.0), 400, seed=0)["accuracy"]
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / 400)
    assert found.low == pytest.approx(found.value - half, abs=0.01)
    assert found.high == pytest.approx(found.value + half, abs=0.01)


def test_the_temperature_recovers_a_scale_of_the_logits() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4_000, 3)) * 2
    chances = softmax(logits)
    truth = (chances.cumsum(1) < generator.random((4_000, 1))).sum(1)
    assert best_temperature(truth, 3 * logits) == pytest.approx(3, rel=0.1)
