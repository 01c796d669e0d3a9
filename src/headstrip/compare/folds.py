"""Divide labelled images into stratified folds; all copies of an image are in one fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headstrip.attributes.labels import Cell
from headstrip.attributes.one_attribute import strata_of
from headstrip.attributes.splitting import drawn_groups
from headstrip.attributes.targets import Target, target_of
from headstrip.encoder.attribute import Attribute, Kind

FOLDS = 5
_FEWEST = 2
_SHOWN = 5


@dataclass(frozen=True)
class Task:
    """One attribute to predict, with the fold of each image that has a label.

    Attributes:
        target: The labels.
        strata: The stratum of each labelled image, such as its class.
        groups: Group of each labelled image; images of one group are copies of each other.
        keys: A text that identifies the group of each labelled image.
        folds: Fold of each labelled image, from 0.
        notes: Sentences about labels that were left out.
    """

    target: Target
    strata: Sequence[Hashable] = field(repr=False)
    groups: np.ndarray = field(repr=False)
    keys: Sequence[str] = field(repr=False)
    folds: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the attribute."""
        return self.target.attribute.name

    @property
    def kind(self) -> Kind:
        """Kind of the attribute."""
        return self.target.attribute.kind


def tasks_of(
    columns: Mapping[str, Sequence[Cell]],
    kinds: Mapping[str, Kind],
    groups: np.ndarray,
    keys: Sequence[str],
    seed: int,
    folds: int = FOLDS,
) -> tuple[tuple[Task, ...], dict[str, str]]:
    """Divide the images of each attribute into folds.

    Args:
        columns: The cells of each attribute, one per image; None is a missing label.
        kinds: Kinds that the caller chose, by attribute.
        groups: Group of each image.
        keys: A text that identifies each image.
        seed: Seed of the folds.
        folds: Number of folds.

    Returns:
        The attributes that can be measured, and why others cannot, by name.
    """
    tasks, skipped = [], {}
    for name, cells in columns.items():
        found = target_of(name, cells, kinds.get(name))
        task = found if isinstance(found, str) else _task(found, groups, keys, seed, folds)
        if isinstance(task, str):
            skipped[name] = task
            continue
        missing = sum(cell is None for cell in cells)
        if missing:
            note = f"{missing:,} of the {len(cells):,} images have no label."
            task = replace(task, notes=(note, *task.notes))
        tasks.append(task)
    return tuple(tasks), skipped


def folds_of(
    strata: Sequence[Hashable], groups: np.ndarray, keys: Sequence[str], seed: int, folds: int
) -> np.ndarray:
    """Divide images into folds that have equal shares of each stratum.

    Args:
        strata: The stratum of each image, such as its class.
        groups: int array of shape (N,): all images of a group go into the same fold.
        keys: A text that identifies the group of each image. The folds depend on it, and not on the
            order of the rows.
        seed: Seed of the folds.
        folds: Number of folds.

    Returns:
        int array with the fold of each image, from 0.
    """
    found, dealt = np.zeros(len(groups), int), 0
    by_stratum = drawn_groups(strata, groups, keys, seed)
    for _, drawn in sorted(by_stratum.items(), key=lambda one: repr(one[0])):
        for rows in drawn:
            found[rows] = dealt % folds
            # All strata share one count; otherwise every stratum would begin in the first fold.
            dealt += 1
    return found


def _task(
    target: Target, groups: np.ndarray, keys: Sequence[str], seed: int, folds: int
) -> Task | str:
    notes: list[str] = []
    if target.attribute.kind == "class":
        reduced = _without_single_groups(target, groups, notes)
        if isinstance(reduced, str):
            return reduced
        target = reduced
    own = groups[target.rows]
    count = len(np.unique(own))
    if count < _FEWEST * _FEWEST:
        return f"its {len(own)} images with a label are too few to measure on"
    strata = strata_of(target)
    # The key of a group is the key of its first image.
    of_rows = [keys[group] for group in own.tolist()]
    return Task(
        target, strata, own, of_rows, folds_of(strata, own, of_rows, seed, folds), tuple(notes)
    )


def _without_single_groups(target: Target, groups: np.ndarray, notes: list[str]) -> Target | str:
    """Leave out classes with one image only, which cannot be both trained on and measured."""
    pairs = {*zip(target.values.tolist(), groups[target.rows].tolist(), strict=True)}
    counts = Counter(value for value, _ in pairs)
    classes = target.attribute.classes
    kept = [one for one in range(len(classes)) if counts[one] >= _FEWEST]
    single = [classes[one] for one in range(len(classes)) if counts[one] < _FEWEST]
    if single:
        listed = ", ".join(f"{one!r:.40}" for one in single[:_SHOWN])
        more = f" and {len(single) - _SHOWN} more" if len(single) > _SHOWN else ""
        notes.append(
            f"Left out, because a class needs two different images: {listed}{more} "
            f"({sum(value not in kept for value in target.values.tolist())} images)."
        )
    if len(kept) < _FEWEST:
        return "fewer than two of its classes have two different images"
    index = np.full(len(classes), -1)
    index[kept] = np.arange(len(kept))
    is_kept = index[target.values] >= 0
    names = tuple(classes[one] for one in kept)
    attribute = Attribute(target.attribute.name, "class", names)
    return Target(attribute, target.rows[is_kept], index[target.values[is_kept]])
