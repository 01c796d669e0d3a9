"""Compare backbones on labelled images: embed, measure, judge, and recommend one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from headstrip.attributes.labels import read_labels
from headstrip.attributes.targets import check_kinds
from headstrip.compare.costs import Costs
from headstrip.compare.embedding import (
    Embedded,
    Progress,
    Run,
    embed,
    read_columns,
    read_rows,
    reason_of,
    work_folder,
)
from headstrip.compare.folds import Task, tasks_of
from headstrip.compare.labelled import LabelledImages, attributes_of, read_images
from headstrip.compare.presets import Candidate, candidates_of
from headstrip.compare.results import (
    AttributeMeasures,
    ComparedBackbone,
    Comparison,
    Confusions,
    Control,
)
from headstrip.compare.rounds import first_size, kept, order_of, sizes_of
from headstrip.compare.scoring import Evaluation, Images, evaluate, evaluate_majority
from headstrip.compare.verdicts import images_to_separate, judge
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.embed.sources import source_of
from headstrip.encoder.attribute import Kind
from headstrip.encoder.encoder import Encoder
from headstrip.errors import HeadstripError, OptionError
from headstrip.factory.build import build_encoder
from headstrip.images.preprocessing import Preprocessing

_log = logging.getLogger("headstrip.compare")

_WORST = 24


def compare_backbones(
    data: str | os.PathLike[str],
    backbones: Sequence[str] = (),
    *,
    preset: str | None = None,
    max_params: float | None = None,
    licenses: Sequence[str] = (),
    minutes: float | None = None,
    work: str | os.PathLike[str] | None = None,
    seed: int = 0,
    attributes: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    path_column: str | None = None,
    keep_nan_strings: bool = False,
    near_duplicates: bool = False,
    random: Sequence[str] | None = None,
    device: str = "cpu",
    settings: EmbedSettings | None = None,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare backbones on labelled images, by one protocol for all.

    headstrip divides the images into five folds, with copies of an image in one fold. For each
    backbone it predicts the images of each fold by a linear probe and by the 5 nearest neighbours
    that it fitted to the other folds, and compares each backbone with the best on the same images.
    A backbone that cannot be built or runs out of memory is a row with the reason.

    Args:
        data: A folder that has a folder of images per class; or a list with a column of paths and
            columns of labels: CSV, TSV or Parquet.
        backbones: Names, as for ``build_encoder``.
        preset: A curated list to compare: ``"small"``, ``"balanced"`` or ``"large"``.
        max_params: Leave out backbones with more parameters.
        licenses: Leave out backbones whose default weights have another licence than these.
        minutes: About how long the comparison may take. headstrip then measures all backbones on
            few images, and the better half of them on twice as many, and so on.
        work: Folder for the embeddings. A later call with it computes only what is missing; by
            default they are removed.
        seed: Seed of the folds, of the bootstrap, of shuffled labels and of random weights.
        attributes: Columns to predict; by default all except that of the paths.
        kinds: Kinds of attributes, ``{"age": "number"}``; by default inferred.
        path_column: The column with the paths, as for ``fit_predictors``.
        keep_nan_strings: Whether text such as ``NaN`` is a label, instead of missing.
        near_duplicates: Whether images that look the same at 16 x 16 pixels count as copies, as
            those with equal bytes or equal pixels always do.
        random: Architectures to add with random weights, as controls; by default that of the best
            backbone.
        device: Device of the networks, such as ``"cuda"``.
        settings: How embeddings are computed.
        options: Other settings of embedding.
        progress: Called with what is embedded with, and the numbers of images done and of all.

    Raises:
        HeadstripError: The images or labels cannot be read, or no attribute can be measured.
        OptionError: An option has an invalid value, or there is nothing to compare.

    Example:
        >>> found = compare_backbones("birds", preset="small")  # doctest: +SKIP
        >>> found.recommended  # doctest: +SKIP
        'resnet18'
    """
    _check(seed, minutes)
    backbones, licenses = _listed(backbones), _listed(licenses)
    attributes = None if attributes is None else _listed(attributes)
    random = None if random is None else _listed(random)
    candidates = candidates_of(backbones, preset, max_params, licenses)
    table = read_labels(data, path_column=path_column, keep_nan_strings=keep_nan_strings)
    names = attributes_of(table, attributes)
    checked = {**table.kinds, **check_kinds(kinds or {}, names)}
    source = source_of(data, column=table.path_column)
    started = time.monotonic()
    with work_folder(work) as folder:
        run = Run(source, folder, settings or EmbedSettings(), options or EmbedOptions(), progress)
        images = read_images(run, table, names, near_duplicates)
        setup = _Setup(run, images, checked, seed, device)
        deadline = None if minutes is None else started + 60 * minutes
        found = _compared(os.fspath(data), setup, candidates, random, deadline)
        return replace(found, path_column=table.path_column)


@dataclass(frozen=True)
class _Setup:
    """What is the same for all backbones."""

    run: Run
    images: LabelledImages
    kinds: Mapping[str, Kind]
    seed: int
    device: str


@dataclass(frozen=True)
class _Part:
    """Images of one round, and the folds of their attributes."""

    paths: list[str]
    tasks: tuple[Task, ...]
    skipped: Mapping[str, str]
    images: Images
    groups: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class _Measured:
    """What was measured of one backbone, and how many seconds its evaluation took."""

    name: str
    evaluation: Evaluation
    costs: Costs
    missing: int
    architecture: str
    preprocessing: Preprocessing | None
    file: Embedded
    seconds: float


def _listed(names: Sequence[str] | None) -> Sequence[str]:
    """Return names as a list, also a single one that was passed without a list."""
    return [names] if isinstance(names, str) else list(names or ())


def _check(seed: Any, minutes: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be an integer from 0, such as 0, got {seed!r:.60}.")
    is_number = isinstance(minutes, (int, float)) and not isinstance(minutes, bool)
    if minutes is not None and not (is_number and 0 < minutes < float("inf")):
        raise OptionError(f"minutes must be a number above 0, such as 10, got {minutes!r:.60}.")


def _part(setup: _Setup, rows: np.ndarray, *, grouped: bool = True) -> _Part:
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
    return _Part(paths, tasks, skipped, Images.of(groups, setup.seed), groups)


def _compared(
    data: str,
    setup: _Setup,
    candidates: Sequence[Candidate],
    random: Sequence[str] | None,
    deadline: float | None,
) -> Comparison:
    everything = np.arange(len(setup.images.paths))
    part = _part(setup, everything)
    if not part.tasks:
        reasons = "; ".join(f"{name!r:.60}: {why}" for name, why in part.skipped.items())
        raise HeadstripError(
            f"No attribute can be measured: {reasons}. Correct the labels, or add images."
        )
    others = [
        ComparedBackbone(one.name, "left out", one.left_out) for one in candidates if one.left_out
    ]
    alive = [one.name for one in candidates if one.left_out is None]
    order = order_of(part.tasks[0], setup.images.groups, setup.images.paths, setup.seed)
    sizes = [len(everything)]
    if deadline is not None:
        sizes = sizes_of(len(everything), len(alive), _first_size(setup, part, order))
    controls = 1 if random is None else len(random)
    notes: list[str] = []
    measured: list[_Measured] = []
    for number, size in enumerate(sizes):
        rows = np.sort(order[:size])
        part = _part(setup, rows)
        measured, failed = _round(setup, part, alive, controls, deadline if number == 0 else None)
        others += failed
        if number + 1 == len(sizes):
            break
        following = measured[: kept(len(measured))]
        paths = [setup.images.paths[row] for row in order[: sizes[number + 1]]]
        growth = len(paths) / size
        if following and not _is_time_for(following, paths, growth, controls, deadline):
            notes.append(
                f"The time was up after {size:,} of the {len(everything):,} images. Raise "
                "--minutes (minutes=) to measure the best on more of them."
            )
            break
        others += _dropped(part, measured, len(following))
        alive = [one.name for one in following]
    return _concluded(data, setup, part, measured, others, random, notes)


def _first_size(setup: _Setup, part: _Part, order: np.ndarray) -> int:
    """Return how many images the first round needs to say something about every attribute."""
    size = first_size(part.tasks)
    while size < len(order):
        if len(_part(setup, np.sort(order[:size])).tasks) == len(part.tasks):
            break
        size *= 2
    return size


def _round(
    setup: _Setup, part: _Part, names: Sequence[str], controls: int, deadline: float | None
) -> tuple[list[_Measured], list[ComparedBackbone]]:
    """Measure backbones, the best first, and also return those that failed."""
    measured: list[_Measured] = []
    failed: list[ComparedBackbone] = []
    left = 0.0
    for name in names:
        if measured:
            # The controls come after the backbones, and which of these is best is not known yet.
            left = _seconds_of_controls(measured[-1], 1.0, len(part.paths), controls)
        if deadline is not None and time.monotonic() + left > deadline and measured:
            failed.append(ComparedBackbone(name, "left out", "The time was up before its turn."))
            continue
        found = _tried(lambda name=name: _measure(setup, part, name, name))  # type: ignore[misc]
        if isinstance(found, str):
            failed.append(ComparedBackbone(name, "failed", found))
        else:
            measured.append(found)
    measured.sort(key=lambda one: -one.evaluation.score.value)
    return measured, failed


def _tried(measure: Callable[[], _Measured]) -> _Measured | str:
    """Return what was measured, or why the backbone cannot be used."""
    try:
        return measure()
    except HeadstripError as error:
        _log.info("A backbone cannot be compared: %s", error)
        _log.debug("Where it failed", exc_info=True)
        return reason_of(error)
    except Exception as error:
        # A network may raise anything, and the other backbones stand.
        _log.warning("A backbone cannot be compared: %r", error)
        _log.debug("Where it failed", exc_info=True)
        return reason_of(error)


def _measure(
    setup: _Setup, part: _Part, name: str, shown: str, encoder: Encoder | None = None
) -> _Measured:
    """Embed the images with a backbone, and evaluate the embeddings."""
    encoder = encoder or build_encoder(name, predictors={}, device=setup.device)
    file = embed(setup.run, encoder, shown, part.paths)
    architecture, preprocessing = encoder.spec.qualified_name, encoder.preprocessing
    del encoder
    started = time.monotonic()
    embeddings, is_found = read_rows(file.file, part.paths)
    evaluation = evaluate(embeddings, part.tasks, part.images)
    seconds = time.monotonic() - started
    missing = int((~is_found).sum())
    return _Measured(
        name, evaluation, file.costs, missing, architecture, preprocessing, file, seconds
    )


def _is_time_for(
    measured: Sequence[_Measured],
    paths: Sequence[str],
    growth: float,
    controls: int,
    deadline: float | None,
) -> bool:
    """Whether a round and the controls after it can probably end in time.

    Args:
        measured: The backbones of the round, the best first.
        paths: The images of the round.
        growth: How many times as many images as before these are.
        controls: Number of architectures with random weights among the controls.
        deadline: When the time is up.
    """
    if deadline is None:
        return True
    wanted = set(paths)
    seconds = _seconds_of_controls(measured[0], growth, len(wanted), controls)
    for one in measured:
        seconds += growth * one.seconds
        if speed := one.costs.images_per_second:
            seconds += len(wanted.difference(read_columns(one.file.file, ["path"])["path"])) / speed
    return time.monotonic() + seconds < deadline


def _seconds_of_controls(best: _Measured, growth: float, images: int, controls: int) -> float:
    """Estimate the time for controls: pixels, shuffled labels, and networks with random weights."""
    embedding = images / best.costs.images_per_second if best.costs.images_per_second else 0.0
    return controls * embedding + (2 + controls) * growth * best.seconds


def _dropped(part: _Part, measured: Sequence[_Measured], count: int) -> list[ComparedBackbone]:
    """Return the rows of the backbones that do not continue."""
    verdicts = judge([one.evaluation.score for one in measured])
    size = len(part.paths)
    return [
        _row(
            one,
            part,
            status="dropped",
            reason=f"Dropped after {size:,} images, where it was number {place + 1} of "
            f"{len(measured)}: {verdicts[place].text(size)}.",
        )
        for place, one in enumerate(measured)
        if place >= count
    ]


def _row(one: _Measured, part: _Part, **more: Any) -> ComparedBackbone:
    attributes = tuple(
        AttributeMeasures(
            found.name,
            task.kind,
            len(task.target.rows),
            found.probe,
            found.neighbors,
            found.strengths,
            found.converged,
        )
        for task, found in zip(part.tasks, one.evaluation.attributes, strict=True)
    )
    return ComparedBackbone(
        one.name,
        images=len(part.paths),
        score=one.evaluation.score.interval,
        attributes=attributes,
        costs=one.costs,
        missing=one.missing,
        **more,
    )


def _concluded(
    data: str,
    setup: _Setup,
    part: _Part,
    measured: Sequence[_Measured],
    others: Sequence[ComparedBackbone],
    random: Sequence[str] | None,
    notes: Sequence[str],
) -> Comparison:
    """Judge the backbones that were measured on all images of the last round."""
    verdicts = judge([one.evaluation.score for one in measured])
    rows = [
        _row(one, part, status="compared", verdict=verdict)
        for one, verdict in zip(measured, verdicts, strict=True)
    ]
    recommended = _cheapest(rows)
    separate = None
    if len(measured) > 1:
        # The best of those that tie with the first, if there is one.
        at = next((at for at, one in enumerate(verdicts) if one.kind == "tied"), 1)
        first, second = measured[0].evaluation.score, measured[at].evaluation.score
        separate = images_to_separate(first, second, len(part.paths), len(measured))
    controls = _controls(setup, part, measured[0] if measured else None, random)
    found = [*notes, *setup.images.notes]
    found += [f"{task.name}: {note}" for task in part.tasks for note in task.notes]
    found += [
        f"{one.name} could not embed {one.missing} images that others can; they count as "
        "embeddings of zeros."
        for one in measured
        if one.missing
    ]
    if measured:
        found += _effect_of_copies(setup, part, measured[0])
    chosen = next((one for one in measured if one.name == recommended), None)
    copies = len(part.paths) - len(np.unique(part.groups))
    return Comparison(
        data=data,
        images=len(part.paths),
        copies=copies,
        bad_images=setup.images.bad,
        backbones=(*rows, *others),
        controls=tuple(controls),
        recommended=recommended,
        images_to_separate=separate,
        warnings=tuple(_beaten(rows, controls)),
        notes=tuple(found),
        skipped=part.skipped,
        confusions=tuple(_confusions(part, chosen)) if chosen else (),
        seed=setup.seed,
    )


def _cheapest(rows: Sequence[ComparedBackbone]) -> str | None:
    """Return the fastest of the backbones that are not distinguishable from the best."""
    tied = [one for one in rows if one.verdict is not None and one.verdict.kind != "worse"]
    if not tied:
        return None

    def cost(one: ComparedBackbone) -> tuple[float, int]:
        # Each row was embedded, so each has costs.
        assert one.costs is not None
        return -(one.costs.images_per_second or 0.0), one.costs.bytes_per_row

    return min(tied, key=cost).name


def _controls(
    setup: _Setup, part: _Part, best: _Measured | None, random: Sequence[str] | None
) -> list[Control]:
    majority = evaluate_majority(part.tasks, part.images).score.interval
    controls = [Control("always the most frequent", majority)]
    pixels, _ = read_rows(setup.images.pixels.file, part.paths)
    found = evaluate(pixels, part.tasks, part.images, neighbors=False)
    controls.append(Control("raw 16 x 16 pixels", found.score.interval))
    del pixels
    if best is not None:
        embeddings, _ = read_rows(best.file.file, part.paths)
        shuffled = evaluate(embeddings, part.tasks, part.images, neighbors=False, shuffled=True)
        del embeddings
        controls.append(Control(f"{best.name} with shuffled labels", shuffled.score.interval))
    names = random if random is not None else [best.architecture] if best else []
    for name in names:
        steps = best.preprocessing if best is not None and name == best.architecture else None
        shown = f"{name} with random weights"

        def measure(name: str = name, shown: str = shown, steps: Any = steps) -> _Measured:
            encoder = _random_encoder(name, steps, setup)
            return _measure(setup, part, name, shown, encoder)

        one = _tried(measure)
        if isinstance(one, str):
            controls.append(Control(shown, None, one))
        else:
            controls.append(Control(shown, one.evaluation.score.interval))
    return controls


def _random_encoder(name: str, steps: Preprocessing | None, setup: _Setup) -> Encoder:
    """Build an architecture with random weights and the preprocessing of its usual ones."""
    from headstrip.backbones import get_backbone

    if steps is None:
        entries = get_backbone(name).weights
        steps = entries[0].preprocessing if entries else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.seed)
        return build_encoder(
            name, weights=None, preprocessing=steps, predictors={}, device=setup.device
        )


def _beaten(rows: Sequence[ComparedBackbone], controls: Sequence[Control]) -> list[str]:
    """Say which controls beat which backbones."""
    sentences = []
    for control in controls:
        beaten = [
            one.name
            for one in rows
            if one.score is not None
            and control.score is not None
            and control.score.value > one.score.value
        ]
        if beaten:
            sentences.append(
                f"The control '{control.name}' scores higher than {', '.join(beaten)}. Embeddings "
                "that do not beat it say nothing about these labels."
            )
    return sentences


def _effect_of_copies(setup: _Setup, part: _Part, best: _Measured) -> list[str]:
    """Say how much better the best backbone looks if copies may fall into two folds."""
    if len(np.unique(part.groups)) == len(part.groups):
        return []
    index = {path: row for row, path in enumerate(setup.images.paths)}
    rows = np.array([index[path] for path in part.paths], int)
    apart = _part(setup, rows, grouped=False)
    embeddings, _ = read_rows(best.file.file, part.paths)
    found = evaluate(embeddings, apart.tasks, apart.images, neighbors=False).score.value
    score = best.evaluation.score
    if score.interval.low <= found <= score.interval.high:
        return []
    return [
        f"With copies in different folds {best.name} would score {100 * found:.1f} instead of "
        f"{100 * score.value:.1f}. The folds here keep copies together."
    ]


def _confusions(part: _Part, chosen: _Measured) -> list[Confusions]:
    found = []
    for task, one in zip(part.tasks, chosen.evaluation.attributes, strict=True):
        if one.guess is None or one.confidence is None:
            continue
        classes, truth = task.target.attribute.classes, task.target.values
        table = np.zeros((len(classes), len(classes)), int)
        np.add.at(table, (truth, one.guess), 1)
        wrong = np.flatnonzero(one.guess != truth)
        worst = wrong[np.argsort(-one.confidence[wrong], kind="stable")][:_WORST]
        rows = tuple(
            (
                part.paths[task.target.rows[at]],
                classes[truth[at]],
                classes[one.guess[at]],
                float(one.confidence[at]),
            )
            for at in worst.tolist()
        )
        found.append(Confusions(task.name, classes, table, rows))
    return found
