"""Measures one backbone on some of the images, or says why it cannot be measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from headstrip.compare.costs import Costs
from headstrip.compare.embedding import Embedded, Run, embed, read_rows, reason_of
from headstrip.compare.folds import Task, tasks_of
from headstrip.compare.labelled import LabelledImages
from headstrip.compare.scoring import Evaluation, Images, evaluate
from headstrip.encoder.attribute import Kind
from headstrip.encoder.encoder import Encoder
from headstrip.errors import HeadstripError
from headstrip.factory.build import build_encoder
from headstrip.images.preprocessing import Preprocessing

_log = logging.getLogger("headstrip.compare")


@dataclass(frozen=True)
class Setup:
    """What is the same for all backbones."""

    run: Run
    images: LabelledImages
    kinds: Mapping[str, Kind]
    seed: int
    device: str


@dataclass(frozen=True)
class Part:
    """Images of one round, and the folds of their attributes."""

    paths: list[str]
    tasks: tuple[Task, ...]
    skipped: Mapping[str, str]
    images: Images
    groups: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Measured:
    """What was measured of one backbone, and how many seconds its evaluation took."""

    name: str
    evaluation: Evaluation
    costs: Costs
    missing: int
    architecture: str
    preprocessing: Preprocessing | None
    file: Embedded
    seconds: float


def part_of(setup: Setup, rows: np.ndarray, *, grouped: bool = True) -> Part:
    """Divide some images, ascending rows, into folds."""
    images = setup.images
    _, groups = np.unique(images.groups[rows], return_inverse=True)
    first = {group: row for row, group in reversed(list(enumerate(groups.tolist())))}
    # The number of a group is its first row, as keys are looked up by it.
    groups = np.array([first[group] for group in groups.tolist()], int)
    if not grouped:
        groups = np.arange(len(rows))
    paths = [images.paths[row] for row in rows.tolist()]
    columns = {name: [cells[row] for row in rows] for name, cells in images.columns.items()}
    tasks, skipped = tasks_of(columns, setup.kinds, groups, paths, setup.seed)
    skipped = {**images.unusable, **skipped}
    return Part(paths, tasks, skipped, Images.of(groups, setup.seed), groups)


def measure(
    setup: Setup, part: Part, name: str, shown: str, build: Callable[[], Encoder] | None = None
) -> Measured | str:
    """Embed the images with a backbone and evaluate the embeddings, or return why this fails.

    Args:
        setup: What is the same for all backbones.
        part: The images.
        name: Name of the backbone, as for ``build_encoder``.
        shown: What to call it to the user.
        build: Builds its encoder; by default ``build_encoder`` does.
    """
    try:
        return _measured(setup, part, name, shown, build)
    except HeadstripError as error:
        _log.info("A backbone cannot be compared: %s", error)
        _log.debug("Where it failed", exc_info=True)
        return reason_of(error)
    except Exception as error:
        # A network may raise anything, and the other backbones stand.
        _log.warning("A backbone cannot be compared: %r", error)
        _log.debug("Where it failed", exc_info=True)
        return reason_of(error)


def _measured(
    setup: Setup, part: Part, name: str, shown: str, build: Callable[[], Encoder] | None
) -> Measured:
    encoder = build() if build else build_encoder(name, predictors={}, device=setup.device)
    file = embed(setup.run, encoder, shown, part.paths)
    architecture, preprocessing = encoder.spec.qualified_name, encoder.preprocessing
    del encoder
    started = time.monotonic()
    embeddings, is_found = read_rows(file.file, part.paths)
    evaluation = evaluate(embeddings, part.tasks, part.images)
    seconds = time.monotonic() - started
    missing = int((~is_found).sum())
    return Measured(
        name, evaluation, file.costs, missing, architecture, preprocessing, file, seconds
    )
