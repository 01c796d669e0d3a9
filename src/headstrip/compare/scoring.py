"""The score of one backbone: models predict each image once, and were not fitted to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstrip.attributes.measures import (
    Interval,
    Measure,
    interval_of,
    log_losses,
    measures_of_confidences,
    measures_of_guesses,
    measures_of_labels,
    measures_of_numbers,
    softmax,
)
from headstrip.compare.folds import FOLDS, Task
from headstrip.compare.nearest import predict_nearest
from headstrip.compare.probe import probe_fold

SCORES = {"class": "accuracy", "labels": "map", "number": "r2"}
"""The measure of the linear probe that backbones are ranked by, for each kind of attribute."""

SAMPLES = 1_000
"""Number of bootstrap samples."""

SPREAD = math.sqrt(1 + FOLDS / (FOLDS - 1))
"""The factor by which other training images increase the spread of mAP and R2.

The bootstrap draws the predicted images, but does not fit the predictors again. Every small change
of a predictor changes mAP and R2, but accuracy only if it changes a predicted class. This is the
factor of Nadeau and Bengio (Inference for the Generalization Error, 2003), 1.5 for five folds.
"""


@dataclass(frozen=True)
class Images:
    """The images of a comparison.

    Attributes:
        count: Number of images.
        groups: Number of the group of each image, from 0 without a gap; a group has all copies of
            an image.
        seed: Seed of all random numbers.
        samples: Number of bootstrap samples.
    """

    count: int
    groups: np.ndarray = field(repr=False)
    seed: int
    samples: int = SAMPLES

    @classmethod
    def of(cls, groups: np.ndarray, seed: int, samples: int = SAMPLES) -> Images:
        """Make the images of groups with any numbers, which are replaced by numbers from 0."""
        _, numbers = np.unique(groups, return_inverse=True)
        return cls(len(groups), numbers, seed, samples)

    @property
    def group_count(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1


@dataclass(frozen=True)
class Score:
    """The number that backbones are ranked by: the mean over the attributes, from 0 to 1.

    Attributes:
        value: The score on all images.
        samples: The score on each bootstrap sample. All backbones have samples of the same images,
            so that two backbones can be compared sample by sample.
        shares: The part of the value that each group of images contributes; 0 for measures that
            are not a sum over images.
        spread: Factor for the spread of the difference between two backbones, because the bootstrap
            samples show too little of it; see ``SPREAD``.
    """

    value: float
    samples: np.ndarray = field(repr=False)
    shares: np.ndarray = field(repr=False)
    spread: float = 1.0

    @property
    def interval(self) -> Interval:
        """The score with its 95 % interval."""
        return interval_of(self.value, self.samples)


@dataclass(frozen=True)
class AttributeScore:
    """The measures of one backbone for one attribute.

    Attributes:
        name: Name of the attribute.
        probe: Measures of the linear probe, the same as those of ``headstrip fit``.
        neighbors: Measures of the 5 nearest neighbours.
        strengths: The chosen strength in each fold.
        converged: Whether every optimisation converged.
        guess: Class that the probe predicts for each labelled image; None for other kinds.
        confidence: Probability of the predicted class; None for other kinds.
    """

    name: str
    probe: Mapping[str, Interval]
    neighbors: Mapping[str, Interval]
    strengths: tuple[float, ...]
    converged: bool
    guess: np.ndarray | None = field(repr=False)
    confidence: np.ndarray | None = field(repr=False)


@dataclass(frozen=True)
class Evaluation:
    """The score and the measures of one backbone.

    Attributes:
        score: The score over all attributes.
        attributes: The measures of each attribute.
    """

    score: Score
    attributes: tuple[AttributeScore, ...]


def evaluate(
    embeddings: np.ndarray,
    tasks: Sequence[Task],
    images: Images,
    *,
    neighbors: bool = True,
    shuffled: bool = False,
) -> Evaluation:
    """Measure the embeddings of one backbone.

    Args:
        embeddings: float32 array of shape (images, dim).
        tasks: The attributes and their folds.
        images: The images.
        neighbors: Whether to measure the nearest neighbours too.
        shuffled: Whether to shuffle the labels first, for a control.
    """
    values = [_shuffled(task, images.seed) if shuffled else task.target.values for task in tasks]
    probed = [
        _probed(embeddings, task, one, images.seed) for task, one in zip(tasks, values, strict=True)
    ]
    near = [
        _near(embeddings, task, one) if neighbors else {}
        for task, one in zip(tasks, values, strict=True)
    ]
    return scored(tasks, [one.measures for one in probed], images, near=near, details=probed)


def evaluate_majority(tasks: Sequence[Task], images: Images) -> Evaluation:
    """Measure predictions that ignore the image: the most frequent class of the other folds."""
    return scored(tasks, [_majority(task) for task in tasks], images)


@dataclass(frozen=True)
class _Probed:
    measures: Mapping[str, Measure]
    strengths: tuple[float, ...]
    converged: bool
    guess: np.ndarray | None
    confidence: np.ndarray | None


def scored(
    tasks: Sequence[Task],
    measures: Sequence[Mapping[str, Measure]],
    images: Images,
    *,
    near: Sequence[Mapping[str, Measure]] = (),
    details: Sequence[_Probed] = (),
) -> Evaluation:
    """Evaluate measures on all images and on bootstrap samples of their groups."""
    near = near or [{}] * len(tasks)
    named = [
        {**{("probe", name): one for name, one in found.items()}}
        | {("neighbors", name): one for name, one in others.items()}
        for found, others in zip(measures, near, strict=True)
    ]
    rows = [images.groups[task.target.rows] for task in tasks]
    values = [
        {key: float(one(np.ones(len(own)))) for key, one in found.items()}
        for found, own in zip(named, rows, strict=True)
    ]
    samples = [{key: np.full(images.samples, np.nan) for key in found} for found in named]
    generator = np.random.default_rng(images.seed)
    for sample in range(images.samples):
        drawn = generator.integers(0, images.group_count, images.group_count)
        counts = np.bincount(drawn, minlength=images.group_count).astype(float)
        for found, own, kept in zip(named, rows, samples, strict=True):
            of_rows = counts[own]
            if not of_rows.any():
                continue
            for key, one in found.items():
                kept[key][sample] = one(of_rows)
    attributes = []
    for at, task in enumerate(tasks):
        intervals: dict[str, dict[str, Interval]] = {"probe": {}, "neighbors": {}}
        for (way, name), value in values[at].items():
            intervals[way][name] = interval_of(value, samples[at][way, name])
        detail = details[at] if details else _Probed({}, (), True, None, None)
        attributes.append(
            AttributeScore(
                task.name,
                intervals["probe"],
                intervals["neighbors"],
                detail.strengths,
                detail.converged,
                detail.guess,
                detail.confidence,
            )
        )
    keys = [("probe", SCORES[task.kind]) for task in tasks]
    # If a sample lacks the measure of one attribute, its mean is NaN: a mean over fewer attributes
    # would be another quantity.
    means = np.mean([kept[key] for kept, key in zip(samples, keys, strict=True)], axis=0)
    value = float(np.mean([found[key] for found, key in zip(values, keys, strict=True)]))
    spread = 1.0 if all(task.kind == "class" for task in tasks) else SPREAD
    shares = _shares(tasks, images, attributes)
    return Evaluation(Score(value, means, shares, spread), tuple(attributes))


def _shares(
    tasks: Sequence[Task], images: Images, attributes: Sequence[AttributeScore]
) -> np.ndarray:
    """Return how much each group contributes to the score by attributes of the kind ``class``."""
    shares = np.zeros(images.group_count)
    for task, one in zip(tasks, attributes, strict=True):
        if one.guess is not None:
            is_right = (one.guess == task.target.values) / (len(one.guess) * len(tasks))
            shares += np.bincount(images.groups[task.target.rows], is_right, images.group_count)
    return shares


def _probed(embeddings: np.ndarray, task: Task, values: np.ndarray, seed: int) -> _Probed:
    """Predict every image by the probe of its fold."""
    folds = np.unique(task.folds).tolist()
    attribute, rows = task.target.attribute, len(values)
    strengths, converged = [], True
    guess, losses = np.zeros(rows, np.int64), np.zeros(rows)
    confidence, calibrated = np.zeros(rows), np.zeros(rows)
    is_class = attribute.kind == "class"
    outputs = np.zeros((0 if is_class else rows, attribute.outputs))
    for fold in folds:
        found = probe_fold(embeddings, task, fold, seed, values=values)
        strengths.append(found.strength)
        converged &= found.converged
        if not is_class:
            outputs[found.test] = found.outputs
            continue
        logits = found.outputs
        guess[found.test] = logits.argmax(1)
        losses[found.test] = log_losses(values[found.test], logits)
        confidence[found.test] = softmax(logits).max(1)
        calibrated[found.test] = softmax(logits / found.temperature).max(1)
    measures: Mapping[str, Measure]
    if is_class:
        measures = measures_of_confidences(
            values, guess, attribute.outputs, losses, confidence, calibrated
        )
        return _Probed(measures, tuple(strengths), converged, guess, confidence)
    if attribute.kind == "labels":
        measures = measures_of_labels(values, outputs)
    else:
        measures = measures_of_numbers(values, outputs[:, 0])
    return _Probed(measures, tuple(strengths), converged, None, None)


def _near(embeddings: np.ndarray, task: Task, values: np.ndarray) -> dict[str, Measure]:
    """Predict every image by its nearest neighbours in the other folds."""
    attribute, rows = task.target.attribute, task.target.rows
    found = np.zeros((len(rows), attribute.outputs if attribute.kind == "labels" else 1))
    for fold in np.unique(task.folds).tolist():
        train, test = np.flatnonzero(task.folds != fold), np.flatnonzero(task.folds == fold)
        predicted = predict_nearest(
            embeddings, rows[train], values[train], rows[test], attribute.kind, attribute.outputs
        )
        found[test] = predicted if attribute.kind == "labels" else predicted[:, None]
    if attribute.kind == "class":
        return measures_of_guesses(values, found[:, 0].astype(np.int64), attribute.outputs)
    if attribute.kind == "number":
        return measures_of_numbers(values, found[:, 0])
    # Shares become logits: a share of 0.5 becomes 0, from which on the label is predicted.
    measures = measures_of_labels(values, found - 0.5)
    return {name: one for name, one in measures.items() if name != "log_loss"}


def _majority(task: Task) -> dict[str, Measure]:
    attribute, values = task.target.attribute, task.target.values
    guess = np.zeros((len(values), attribute.outputs if attribute.kind == "labels" else 1))
    for fold in np.unique(task.folds).tolist():
        train, test = task.folds != fold, task.folds == fold
        if attribute.kind == "class":
            guess[test] = np.bincount(values[train], minlength=attribute.outputs).argmax()
        else:
            guess[test] = values[train].mean(0)
    if attribute.kind == "class":
        return measures_of_guesses(values, guess[:, 0].astype(np.int64), attribute.outputs)
    if attribute.kind == "number":
        return measures_of_numbers(values, guess[:, 0])
    measures = measures_of_labels(values, guess - 0.5)
    return {name: one for name, one in measures.items() if name != "log_loss"}


def _shuffled(task: Task, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, len(task.target.rows)]).permutation(task.target.values)
