"""Compare backbones on labelled images: embed, measure, judge, and recommend one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headstrip.attributes.labels import read_labels
from headstrip.attributes.options import checked_names, checked_seed
from headstrip.attributes.targets import check_kinds
from headstrip.compare.conclusion import conclude, row_of
from headstrip.compare.embedding import Progress, Run, read_columns, work_folder
from headstrip.compare.labelled import attributes_of, read_images
from headstrip.compare.measuring import Measured, Part, Setup, measure, part_of
from headstrip.compare.presets import Candidate, candidates_of
from headstrip.compare.results import ComparedBackbone, Comparison
from headstrip.compare.rounds import first_size, kept, order_of, sizes_of
from headstrip.compare.verdicts import judge
from headstrip.embed.settings import EmbedOptions, EmbedSettings, settings_and_options
from headstrip.embed.sources import source_of
from headstrip.errors import HeadstripError, OptionError
from headstrip.factory.build import checked_device
from headstrip.system.arguments import check_function, check_path


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
    """Compare backbones on labelled images, all in the same way.

    headstrip divides the images into five folds, with all copies of an image in the same fold. For
    each backbone it predicts the images of each fold from the other four folds: by a linear probe,
    and by the 5 nearest neighbours. Then it compares each backbone with the best one on the same
    images. A backbone that cannot be built or runs out of memory is a row with the reason.

    Args:
        data: A folder with one folder of images per class; or a list with a column of paths and
            columns of labels: CSV, TSV or Parquet.
        backbones: Names, as for ``build_encoder``.
        preset: A curated list to compare: ``"small"``, ``"balanced"`` or ``"large"``.
        max_params: Leave out backbones with more parameters.
        licenses: Leave out backbones whose default weights have another licence than these.
        minutes: Approximate time limit of the comparison. headstrip then measures all backbones on
            few images, and the better half of them on twice as many, and so on.
        work: Folder for the embeddings. A later call with the same folder computes only what is
            missing. By default headstrip deletes the embeddings at the end.
        seed: Seed of the folds, of the bootstrap, of shuffled labels and of random weights.
        attributes: Columns to predict; by default all except the column of paths.
        kinds: Kinds of attributes, such as ``{"age": "number"}``; by default headstrip infers them.
        path_column: The column with the paths, as for ``fit_predictors``.
        keep_nan_strings: Whether text such as ``NaN`` is a label instead of a missing value.
        near_duplicates: Whether images that look the same at 16 x 16 pixels count as copies. Images
            with equal bytes or equal pixels always count as copies.
        random: Architectures to add with random weights, as controls; by default the architecture
            of the best backbone.
        device: Device of the networks, such as ``"cuda"``.
        settings: The settings that embeddings depend on.
        options: Other settings of embedding.
        progress: Called with the name of the encoder, the number of images done, and the number of
            all images.

    Raises:
        HeadstripError: The images or labels cannot be read, or no attribute can be measured.
        OptionError: An option has an invalid value, or there is nothing to compare.

    Example:
        >>> found = compare_backbones("birds", preset="small")  # doctest: +SKIP
        >>> found.recommended  # doctest: +SKIP
        'resnet18'
    """
    _check_minutes(minutes)
    settings, options = settings_and_options(settings, options)
    advice = "Pass one that takes an encoder's name and the numbers of images done and of all."
    check_function("progress", progress, advice)
    if work is not None:
        check_path("work", work, "work")
    seed = checked_seed(seed)
    checked_device(device)
    backbones = checked_names("backbones", backbones, "resnet18")
    licenses = checked_names("licenses", licenses, "apache-2.0")
    attributes = None if attributes is None else checked_names("attributes", attributes, "colour")
    random = None if random is None else checked_names("random", random, "resnet18")
    candidates = candidates_of(backbones, preset, max_params, licenses)
    table = read_labels(data, path_column=path_column, keep_nan_strings=keep_nan_strings)
    names = attributes_of(table, attributes)
    checked = {**table.kinds, **check_kinds(kinds or {}, names)}
    source = source_of(data, column=table.path_column)
    started = time.monotonic()
    with work_folder(work) as folder:
        run = Run(source, folder, settings, options, progress)
        images = read_images(run, table, names, near_duplicates)
        setup = Setup(run, images, checked, seed, device)
        deadline = None if minutes is None else started + 60 * minutes
        found = _compared(os.fspath(data), setup, candidates, random, deadline)
        return replace(found, path_column=table.path_column)


def _check_minutes(minutes: Any) -> None:
    is_number = isinstance(minutes, (int, float)) and not isinstance(minutes, bool)
    if minutes is not None and not (is_number and 0 < minutes < float("inf")):
        raise OptionError(f"minutes must be a number above 0, such as 10, got {minutes!r:.60}.")


def _compared(
    data: str,
    setup: Setup,
    candidates: Sequence[Candidate],
    random: Sequence[str] | None,
    deadline: float | None,
) -> Comparison:
    everything = np.arange(len(setup.images.paths))
    part = part_of(setup, everything)
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
    measured: list[Measured] = []
    for number, size in enumerate(sizes):
        rows = np.sort(order[:size])
        part = part_of(setup, rows)
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
    return conclude(data, setup, part, measured, others, random, notes)


def _first_size(setup: Setup, part: Part, order: np.ndarray) -> int:
    """Return how many images the first round needs so that every attribute can be measured."""
    size = first_size(part.tasks)
    while size < len(order):
        if len(part_of(setup, np.sort(order[:size])).tasks) == len(part.tasks):
            break
        size *= 2
    return size


def _round(
    setup: Setup, part: Part, names: Sequence[str], controls: int, deadline: float | None
) -> tuple[list[Measured], list[ComparedBackbone]]:
    """Measure backbones, the best first, and also return those that failed."""
    measured: list[Measured] = []
    failed: list[ComparedBackbone] = []
    left = 0.0
    for name in names:
        if measured:
            # The controls use the best backbone. It is not known yet; use the last one.
            left = _seconds_of_controls(measured[-1], 1.0, len(part.paths), controls)
        if deadline is not None and time.monotonic() + left > deadline and measured:
            failed.append(ComparedBackbone(name, "left out", "The time was up before its turn."))
            continue
        found = measure(setup, part, name, name)
        if isinstance(found, str):
            failed.append(ComparedBackbone(name, "failed", found))
        else:
            measured.append(found)
    measured.sort(key=lambda one: -one.evaluation.score.value)
    return measured, failed


def _is_time_for(
    measured: Sequence[Measured],
    paths: Sequence[str],
    growth: float,
    controls: int,
    deadline: float | None,
) -> bool:
    """Whether a round and the controls after it will probably end before the deadline.

    Args:
        measured: The backbones of the round, the best first.
        paths: The images of the round.
        growth: Number of these images divided by that of the round before.
        controls: Number of architectures with random weights among the controls.
        deadline: The end of the time, as ``time.monotonic`` counts; None without a limit.
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


def _seconds_of_controls(best: Measured, growth: float, images: int, controls: int) -> float:
    """Estimate the time for controls: pixels, shuffled labels, and networks with random weights."""
    embedding = images / best.costs.images_per_second if best.costs.images_per_second else 0.0
    return controls * embedding + (2 + controls) * growth * best.seconds


def _dropped(part: Part, measured: Sequence[Measured], count: int) -> list[ComparedBackbone]:
    """Return the rows of the backbones that do not continue."""
    verdicts = judge([one.evaluation.score for one in measured])
    size = len(part.paths)
    return [
        row_of(
            one,
            part,
            status="dropped",
            reason=f"Dropped after {size:,} images, where it was number {place + 1} of "
            f"{len(measured)}: {verdicts[place].text(size)}.",
        )
        for place, one in enumerate(measured)
        if place >= count
    ]
