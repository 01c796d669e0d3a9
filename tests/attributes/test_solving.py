"""The solvers find the optima that scikit-learn finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from tests.attributes.tables import clusters, layers

from headstrip.attributes.solving import FINE, solve
from headstrip.attributes.standardize import Axes, Scale

C = (1e-4, 1e-2, 1.0)


def reference(points: np.ndarray, truth: np.ndarray, c: float, **options: Any) -> np.ndarray:
    """Return scikit-learn's logits; one column for two classes."""
    points = StandardScaler().fit_transform(points.astype(np.float64))
    model = LogisticRegression(C=c, tol=1e-10, max_iter=20_000, **options).fit(points, truth)
    return model.decision_function(points)


@pytest.mark.parametrize(("rows", "dim"), [(200, 12), (40, 90)], ids=["tall", "wide"])
@pytest.mark.parametrize("c", C)
def test_logits_of_several_classes_match_scikit_learn(rows: int, dim: int, c: float) -> None:
    points, truth = clusters(rows, dim, 4)
    found = layers(points, truth, "class", 4, *C)
    assert found.converged == [True] * len(C)
    logits = found.outputs(C.index(c), torch.from_numpy(points).double())
    assert np.abs(logits - reference(points, truth, c)).max() < 1e-4


def test_two_classes_have_the_same_probabilities_as_in_scikit_learn() -> None:
    points, truth = clusters(150, 8, 2)
    logits = layers(points, truth, "class", 2, 0.1).outputs(0, torch.from_numpy(points).double())
    expected = reference(points, truth, 0.1)
    assert np.abs(logits[:, 1] - logits[:, 0] - expected).max() < 1e-4


def test_balanced_weights_match_scikit_learn() -> None:
    points, truth = clusters(200, 8, 3)
    kept = np.flatnonzero((truth > 0) | (np.arange(200) % 5 == 0))
    points, truth = points[kept], truth[kept]
    embeddings = torch.from_numpy(points).double()
    found = solve(embeddings, truth, "class", 3, [0.1], FINE, axes=None, is_balanced=True)
    expected = reference(points, truth, 0.1, class_weight="balanced")
    assert np.abs(found.outputs(0, embeddings) - expected).max() < 1e-4


def test_each_label_matches_a_logistic_regression_of_scikit_learn() -> None:
    points, truth = clusters(150, 8, 4)
    labels = np.stack([truth == 0, truth >= 2, truth % 2 == 0], 1)
    logits = layers(points, labels, "labels", 3, 0.1).outputs(0, torch.from_numpy(points).double())
    for one in range(3):
        assert np.abs(logits[:, one] - reference(points, labels[:, one], 0.1)).max() < 1e-4


@pytest.mark.parametrize(("rows", "dim"), [(100, 8), (30, 90)], ids=["tall", "wide"])
def test_numbers_match_ridge_regression_of_scikit_learn(rows: int, dim: int) -> None:
    points, truth = clusters(rows, dim, 5)
    numbers = 40 + 3.0 * truth
    scaled = StandardScaler().fit_transform(points.astype(np.float64))
    found = layers(points, numbers, "number", 1, *C)
    for at, c in enumerate(C):
        expected = Ridge(alpha=1 / c).fit(scaled, numbers).predict(scaled)
        outputs = found.outputs(at, torch.from_numpy(points).double())[:, 0]
        assert np.abs(outputs - expected).max() < 1e-8


def test_axes_of_other_images_do_not_change_the_optimum() -> None:
    points, truth = clusters(300, 12, 3)
    everything = torch.from_numpy(points).double()
    axes = Axes.of(Scale.of(everything).apply(everything))
    some, labels = everything[:150], truth[:150]
    one = solve(some, labels, "class", 3, [0.1], FINE, axes=axes, is_balanced=False)
    other = solve(some, labels, "class", 3, [0.1], FINE, axes=None, is_balanced=False)
    assert np.abs(one.outputs(0, some) - other.outputs(0, some)).max() < 1e-5


def test_a_starting_point_does_not_change_the_optimum() -> None:
    points, truth = clusters(60, 90, 3)
    first = layers(points, truth, "class", 3, 1.0)
    embeddings = torch.from_numpy(points).double()
    again = solve(
        embeddings,
        truth,
        "class",
        3,
        [0.01],
        FINE,
        axes=None,
        is_balanced=False,
        start=first.start(0),
    )
    expected = layers(points, truth, "class", 3, 0.01).outputs(0, embeddings)
    assert np.abs(again.outputs(0, embeddings) - expected).max() < 1e-5


def test_constant_and_all_zero_features_have_no_weight() -> None:
    points, truth = clusters(80, 6, 3)
    points[:, 2], points[:, 4] = 7.3, 0.0
    found = layers(points, truth, "class", 3, 0.1)
    assert found.weights[0][:, [2, 4]].abs().max() < 1e-9
    assert found.weights.isfinite().all()


def test_a_class_without_rows_is_never_predicted() -> None:
    points, truth = clusters(80, 6, 3)
    found = layers(points, 2 * truth, "class", 5, 0.1)
    logits = found.outputs(0, torch.from_numpy(points).double())
    assert np.isneginf(logits[:, [1, 3]]).all()
    assert np.isfinite(logits[:, [0, 2, 4]]).all()


def test_labels_of_all_or_no_rows_get_a_finite_bias() -> None:
    points, truth = clusters(80, 6, 2)
    labels = np.stack([truth == 0, np.ones(80, bool), np.zeros(80, bool)], 1)
    found = layers(points, labels, "labels", 3, 0.1)
    assert found.weights[0][1:].abs().max() == 0
    assert found.biases[0][1] > 4
    assert found.biases[0][2] < -4


def test_separable_classes_converge() -> None:
    points, truth = clusters(60, 40, 3, noise=0.05)
    found = layers(points, truth, "class", 3, *C, 100.0)
    assert found.converged == [True] * 4
    assert max(found.iterations) < 200
