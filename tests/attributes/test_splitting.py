"""Parts: stratified, repeatable, and copies together."""

from __future__ import annotations

import numpy as np

from headstrip.attributes.splitting import (
    TEST,
    TRAIN,
    VALIDATION,
    Fractions,
    bins_of,
    groups_of,
    split,
    take_validation,
)

SIZE = Fractions(0.2, 0.25)


def parts_of(strata: list[int], groups: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    groups = np.arange(len(strata)) if groups is None else groups
    keys = [f"{group}.jpg" for group in groups]
    return split(strata, groups, keys, seed, SIZE)


def test_each_class_is_split_by_the_fractions() -> None:
    strata = [0] * 100 + [1] * 50 + [2] * 3
    parts = parts_of(strata)
    counts = [np.bincount(parts[np.array(strata) == one]).tolist() for one in range(3)]
    assert counts == [[60, 20, 20], [30, 10, 10], [1, 1, 1]]


def test_a_single_image_is_trained_on_and_one_of_two_is_held_out() -> None:
    assert parts_of([0]).tolist() == [TRAIN]
    assert sorted(parts_of([0, 0])) == [TRAIN, TEST]


def test_the_split_depends_on_seed_and_names_not_on_the_order() -> None:
    strata = [row % 3 for row in range(60)]
    parts, order = parts_of(strata), np.random.default_rng(0).permutation(60)
    keys = [f"{row}.jpg" for row in order]
    again = split([strata[row] for row in order], np.arange(60), keys, 0, SIZE)
    assert (again == parts[order]).all()
    assert (parts_of(strata, seed=1) != parts).any()


def test_images_of_one_group_are_never_separated() -> None:
    groups = np.repeat(np.arange(20), 3)
    parts = parts_of([0] * 60, groups)
    assert all(len(set(parts[groups == group])) == 1 for group in range(20))
    assert set(parts) == {TRAIN, VALIDATION, TEST}


def test_equal_bytes_equal_embeddings_and_near_ones_are_copies() -> None:
    points = np.eye(6, dtype=np.float32)
    points[2] = points[1]
    points[5] = points[4] + np.float32(0.01)
    checksums = ["a", "b", "c", "a", None, None]
    assert groups_of(points, checksums, None).tolist() == [0, 1, 1, 0, 4, 5]
    assert groups_of(points, checksums, 0.98).tolist() == [0, 1, 1, 0, 4, 4]


def test_the_validation_part_is_taken_only_from_the_training_part() -> None:
    parts = np.array([TRAIN] * 40 + [TEST] * 20)
    keys = [f"{row}" for row in range(60)]
    found = take_validation(parts, [0] * 60, np.arange(60), keys, 0, 0.25)
    assert (found[40:] == TEST).all()
    assert np.bincount(found[:40]).tolist() == [30, 10]


def test_numbers_are_divided_by_rank() -> None:
    assert np.bincount(bins_of(np.arange(100.0) ** 3)).tolist() == [10] * 10
