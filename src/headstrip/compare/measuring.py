"""Measure one backbone on some of the images, or say why it cannot be measured."""

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
    """The images and settings of a comparison, the same for all backbones."""

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
    """The evaluation and the costs of one backbone; ``seconds`` is the time of the evaluation."""

    name: str
    evaluation: Evaluation
    costs: Costs
    missing: int
    architecture: str
    preprocessing: Preprocessing | None
    file: Embedded
    seconds: float


def part_of(setup: Setup, rows: np.ndarray, *, grouped: bool = True) -> Part:
    """Divide the images in some rows, which are ascending, into folds."""
    images = setup.images
    _, groups = np.unique(images.groups[rows], return_inverse=True)
    first = {group: row for row, group in reversed(list(enumerate(groups.tolist())))}
    # The number of a group must be its first row, because keys are looked up by it.
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
    """Embed the images with a backbone and evaluate the embeddings, or return why this failed.

    Args:
        setup: The images and settings of the comparison.
        part: The images of this round.
        name: Name of the backbone, as for ``build_encoder``.
        shown: Name of the backbone for the user.
        build: A function that builds its encoder; by default ``build_encoder``.
    """
    try:
        return _measured(setup, part, name, shown, build)
    except HeadstripError as error:
        _log.info("A backbone cannot be compared: %s", error)
        _log.debug("Where it failed", exc_info=True)
        return reason_of(error)
    except Exception as error:
        # A network may raise any error, which must not stop the other backbones.
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
