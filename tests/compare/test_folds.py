"""Folds: copies stay together, classes are spread evenly, and the order of rows has no effect."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headstrip.attributes.splitting import connected
from headstrip.compare.folds import folds_of, tasks_of

LABELS = st.lists(st.sampled_from("abcd"), min_size=12, max_size=60)


def names(rows: int) -> list[str]:
    return [f"{row:04d}.jpg" for row in range(rows)]


@given(LABELS, st.integers(0, 9), st.data())
def test_copies_never_fall_into_two_folds(labels: list[str], seed: int, data: st.DataObject):
    rows = st.integers(0, len(labels) - 1)
    pairs = data.draw(st.lists(st.tuples(rows, rows), max_size=20))
    groups = connected(len(labels), [], pairs)
    keys = [names(len(labels))[group] for group in groups]
    folds = folds_of(labels, groups, keys, seed, 5)
    assert all(folds[one] == folds[other] for one, other in pairs)


@given(LABELS, st.integers(0, 9))
def test_each_fold_has_its_share_of_each_class(labels: list[str], seed: int):
    folds = folds_of(labels, np.arange(len(labels)), names(len(labels)), seed, 5)
    for label in set(labels):
        counts = np.bincount(folds[np.array(labels) == label], minlength=5)
        assert np.ptp(counts) <= 1
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1


@given(st.permutations(range(30)), st.integers(0, 9))
def test_the_order_of_the_rows_changes_no_fold(order: list[int], seed: int):
    labels, keys = [str(row % 3) for row in range(30)], names(30)
    folds = folds_of(labels, np.arange(30), keys, seed, 5)
    again = folds_of(
        [labels[row] for row in order], np.arange(30), [keys[r] for r in order], seed, 5
    )
    assert folds[order].tolist() == again.tolist()


def test_missing_labels_are_left_out_of_their_attribute_only():
    columns = {"tone": ["dark", "light"] * 10, "marks": [None, "dots"] * 5 + ["lines", None] * 5}
    (tone, marks), skipped = tasks_of(columns, {}, np.arange(20), names(20), 0)
    assert skipped == {}
    assert tone.target.rows.tolist() == list(range(20))
    assert marks.target.rows.tolist() == [*range(1, 10, 2), *range(10, 20, 2)]


def test_a_class_with_one_image_is_left_out_with_a_note():
    columns = {"kind": ["cat"] * 6 + ["dog"] * 6 + ["owl"]}
    (task,), _ = tasks_of(columns, {}, np.arange(13), names(13), 0)
    assert task.target.attribute.classes == ("cat", "dog")
    assert task.notes == (
        "Left out, because a class needs two different images: 'owl' (1 images).",
    )


def test_a_class_with_only_copies_of_one_image_is_left_out():
    groups = np.array([*range(12), 12, 12, 12])
    columns = {"kind": ["cat"] * 6 + ["dog"] * 6 + ["owl"] * 3}
    (task,), _ = tasks_of(columns, {}, groups, names(15), 0)
    assert len(task.target.rows) == 12


def test_attributes_that_cannot_be_measured_have_a_reason():
    columns = {
        "empty": [None] * 8,
        "one": ["a"] * 8,
        "single": ["a"] * 7 + ["b"],
        "few": [1.5, 2.5, 3.5, *[None] * 5],
        "fine": ["a", "b"] * 4,
    }
    tasks, skipped = tasks_of(columns, {}, np.arange(8), names(8), 0)
    assert [task.name for task in tasks] == ["fine"]
    assert skipped == {
        "empty": "no image has a label",
        "one": "all 8 labels are 'a', and a predictor needs two classes",
        "single": "fewer than two of its classes have two different images",
        "few": "its 3 images with a label are too few to measure on",
    }
