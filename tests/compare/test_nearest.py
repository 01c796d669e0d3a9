"""The nearest neighbours match scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from headstrip.compare import nearest
from headstrip.compare.nearest import nearest_rows, predict_nearest


def points(rows: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(6, 120), st.integers(2, 40), st.integers(2, 9), st.integers(0, 10**6))
def test_predicted_classes_match_scikit_learn(rows: int, dim: int, classes: int, seed: int):
    embeddings = points(rows + 20, dim, seed)
    values = np.random.default_rng(seed).integers(0, classes, rows)
    train, test = np.arange(rows), np.arange(rows, rows + 20)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(embeddings[train].astype(float), values)
    found = predict_nearest(embeddings, train, values, test, "class", classes)
    assert found.tolist() == theirs.predict(embeddings[test].astype(float)).tolist()


def test_neighbours_found_in_blocks_match_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    embeddings = points(3_000, 16, 0)
    values = np.random.default_rng(0).integers(0, 30, 9_000)[:2_000]
    train, test = np.arange(2_000), np.arange(2_000, 3_000)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(embeddings[train].astype(float), values)
    expected = theirs.kneighbors(embeddings[test].astype(float), return_distance=False)
    whole = nearest_rows(embeddings, train, test, 5)
    monkeypatch.setattr(nearest, "_QUERIES", 37)
    monkeypatch.setattr(nearest, "_ROWS", 101)
    assert whole.tolist() == expected.tolist()
    assert nearest_rows(embeddings, train, test, 5).tolist() == expected.tolist()


def test_numbers_are_the_mean_and_labels_the_share_of_the_neighbours():
    embeddings = points(80, 8, 3)
    train, test = np.arange(60), np.arange(60, 80)
    numbers = np.random.default_rng(1).normal(size=60)
    theirs = KNeighborsRegressor(5, metric="cosine").fit(embeddings[train].astype(float), numbers)
    found = predict_nearest(embeddings, train, numbers, test, "number", 1)
    assert found == pytest.approx(theirs.predict(embeddings[test].astype(float)))
    labels = np.random.default_rng(2).random((60, 3)) < 0.4
    classifier = KNeighborsClassifier(5, metric="cosine").fit(
        embeddings[train].astype(float), labels
    )
    shares = predict_nearest(embeddings, train, labels, test, "labels", 3)
    expected = [one[:, 1] for one in classifier.predict_proba(embeddings[test].astype(float))]
    assert shares == pytest.approx(np.stack(expected, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_first_rows_count_among_tied_neighbours(seed: int, different: int):
    generator = np.random.default_rng(seed)
    embeddings = points(different, 4, seed)[generator.integers(0, different, 60)]
    train, test = np.arange(50), np.arange(50, 60)
    unit = embeddings.astype(float) / np.linalg.norm(embeddings.astype(float), axis=1)[:, None]
    similar = np.round(unit[test] @ unit[train].T, 9)
    expected = [np.lexsort((train, -row))[:5].tolist() for row in similar]
    assert nearest_rows(embeddings, train, test, 5).tolist() == expected


def test_embeddings_of_zeros_and_fewer_rows_than_neighbours_are_accepted():
    embeddings = np.zeros((5, 3), np.float32)
    found = predict_nearest(
        embeddings, np.arange(3), np.array([1, 1, 0]), np.array([3, 4]), "class", 2
    )
    assert found.tolist() == [1, 1]
