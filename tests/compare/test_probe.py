"""The linear probe equals scikit-learn's logistic regression on the same folds and strength."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.attributes.tables import clusters, names

from headstrip.compare import probe
from headstrip.compare.folds import Task, tasks_of
from headstrip.compare.probe import probe_fold
from headstrip.compare.scoring import Images, evaluate


def task_of(values: np.ndarray) -> Task:
    rows = len(values)
    columns = {"kind": [f"{value:02d}" for value in values]}
    (task,), _ = tasks_of(columns, {}, np.arange(rows), names(rows), 0)
    return task


@pytest.mark.parametrize(("rows", "dim", "classes"), [(300, 24, 7), (120, 200, 4), (200, 16, 2)])
def test_the_log_loss_matches_scikit_learn_within_a_thousandth(
    rows: int, dim: int, classes: int
) -> None:
    embeddings, values = clusters(rows, dim, classes, noise=3.0)
    task = task_of(values)
    losses = np.zeros(rows)
    for fold in range(5):
        found = probe_fold(embeddings, task, fold, 0)
        theirs = make_pipeline(
            StandardScaler(), LogisticRegression(C=found.strength, tol=1e-8, max_iter=10_000)
        )
        wide = embeddings.astype(float)
        theirs.fit(wide[found.train], values[found.train])
        chances = theirs.predict_proba(wide[found.test])
        for row, chance in zip(found.test, chances, strict=True):
            losses[row] = log_loss([values[row]], [chance], labels=range(classes))
    score = evaluate(embeddings, [task], Images.of(np.arange(rows), 0, samples=2))
    ours = score.attributes[0].probe["log_loss"].value
    assert ours == pytest.approx(losses.mean(), abs=1e-3)


def test_the_strength_depends_only_on_the_training_part() -> None:
    embeddings, values = clusters(200, 12, 4, noise=3.0)
    task = task_of(values)
    found = probe_fold(embeddings, task, 2, 0)
    changed = embeddings.copy()
    changed[found.test] = np.random.default_rng(0).normal(size=(len(found.test), 12)) * 100
    shuffled = values.copy()
    shuffled[found.test] = 0
    again = probe_fold(changed, task, 2, 0, values=shuffled)
    assert (again.strength, again.temperature) == (found.strength, found.temperature)
    fixed = probe_fold(changed, task, 2, 0, values=shuffled, strengths=[found.strength])
    assert np.array_equal(fixed.outputs, again.outputs)


def test_too_many_images_are_sampled_in_the_shares_of_their_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embeddings, values = clusters(400, 6, 3)
    task = task_of(values)
    monkeypatch.setattr(probe, "MOST_IMAGES", 90)
    found = probe_fold(embeddings, task, 0, 0)
    assert 85 <= len(found.train) <= 95
    shares = np.bincount(values[found.train]) / len(found.train)
    assert shares == pytest.approx(np.bincount(values) / 400, abs=0.02)


def test_an_evaluation_does_not_depend_on_the_order_of_the_images() -> None:
    embeddings, values = clusters(150, 8, 3, noise=3.0)
    order = np.random.default_rng(0).permutation(150)
    columns = {"kind": [f"{value}" for value in values]}
    again = {"kind": [f"{values[row]}" for row in order]}
    keys = names(150)
    (one,), _ = tasks_of(columns, {}, np.arange(150), keys, 0)
    (other,), _ = tasks_of(again, {}, np.arange(150), [keys[row] for row in order], 0)
    images = Images.of(np.arange(150), 0, samples=2)
    first, second = (
        evaluate(embeddings, [one], images),
        evaluate(embeddings[order], [other], images),
    )
    assert second.score.value == pytest.approx(first.score.value)
    assert second.attributes[0].probe["log_loss"].value == pytest.approx(
        first.attributes[0].probe["log_loss"].value, abs=1e-6
    )


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["constant", "zeros", "huge", "plain"]))
def test_any_finite_embeddings_and_missing_labels_give_finite_scores(seed: int, what: str) -> None:
    generator = np.random.default_rng(seed)
    # With fewer rows than columns the solver works in the axes of the rows.
    embeddings = generator.normal(size=(40, 5 if seed % 2 else 60)).astype(np.float32)
    embeddings = {
        "constant": np.ones_like(embeddings),
        "zeros": np.zeros_like(embeddings),
        "huge": embeddings * np.float32(1e30),
        "plain": embeddings,
    }[what]
    missing = generator.random((3, 40)) < 0.3
    cells: dict[str, list] = {
        "kind": [f"{one}" for one in generator.integers(0, 3, 40)],
        "marks": [
            "|".join(["a"] * one + ["b"] * other) or "|"
            for one, other in generator.integers(0, 2, (40, 2))
        ],
        "size": [float(one) for one in generator.normal(size=40)],
    }
    for gone, column in zip(missing, cells.values(), strict=True):
        for row in np.flatnonzero(gone):
            column[row] = None
    kinds = {"kind": "class", "marks": "labels", "size": "number"}
    tasks, _ = tasks_of(cells, kinds, np.arange(40), names(40), seed)
    found = evaluate(embeddings, tasks, Images.of(np.arange(40), seed, samples=5))
    assert np.isfinite(found.score.value)
    assert np.isfinite(found.score.samples).all()
