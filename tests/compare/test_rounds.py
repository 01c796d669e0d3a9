"""Rounds of a comparison: each uses more images and fewer backbones."""

from __future__ import annotations

import numpy as np
import pytest

from headstrip.compare.folds import tasks_of
from headstrip.compare.rounds import first_size, kept, order_of, sizes_of


def test_rounds_double_the_images_and_halve_the_backbones() -> None:
    assert sizes_of(1_000, 8) == [128, 256, 1_000]
    assert sizes_of(130, 8) == [130]
    assert sizes_of(1_000, 1) == [1_000]
    assert [kept(count) for count in (9, 8, 5, 3, 2)] == [5, 4, 3, 2, 2]


@pytest.mark.parametrize(("classes", "expected"), [(3, 128), (150, 600)])
def test_the_first_round_has_four_images_of_a_class_on_average(classes: int, expected: int) -> None:
    """Of 128 images of 150 classes no class would have two."""
    keys = [f"{row}.jpg" for row in range(1_200)]
    cells = {"kind": [f"c{row % classes}" for row in range(1_200)]}
    tasks, _ = tasks_of(cells, {}, np.arange(1_200), keys, 0)
    assert first_size(tasks) == expected


@pytest.mark.parametrize("size", [30, 60, 120, 250])
def test_the_first_images_have_all_classes_in_their_shares(size: int) -> None:
    labels = ["a"] * 150 + ["b"] * 60 + ["c"] * 30 + [None] * 60
    groups = np.arange(300)
    groups[1:150:5] = groups[0:149:5]
    keys = [f"{row}.jpg" for row in range(300)]
    (task,), _ = tasks_of({"kind": labels}, {}, groups, keys, 0)
    order = order_of(task, groups, keys, 0)
    assert sorted(order) == list(range(300))
    first = [labels[row] for row in order[:size]]
    for label, share in (("a", 0.5), ("b", 0.2), ("c", 0.1), (None, 0.2)):
        assert first.count(label) == pytest.approx(share * size, abs=4)
    assert order.tolist() == order_of(task, groups, keys, 0).tolist()
    assert order.tolist() != order_of(task, groups, keys, 1).tolist()
