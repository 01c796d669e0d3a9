"""Fit predictors of attributes to embeddings, and measure them on held-out images."""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from headstrip._version import __version__
from headstrip.attributes.joining import Joined, images_of_array, images_of_file, join
from headstrip.attributes.labels import Cell, LabelTable, read_labels
from headstrip.attributes.one_attribute import (
    AttributeFit,
    Settings,
    check_memory,
    fit_attribute,
)
from headstrip.attributes.options import checked_names, checked_seed
from headstrip.attributes.sgd import fit_streamed
from headstrip.attributes.splitting import PART_OF, TEST, TRAIN, groups_of
from headstrip.attributes.standardize import Axes, standardize
from headstrip.attributes.streaming import images_of_stream
from headstrip.attributes.targets import Target, check_kinds, target_of
from headstrip.embed.output.loading import EmbeddingsFile, open_embeddings
from headstrip.encoder.comparison import describe_encoder
from headstrip.encoder.predictors_file import FittedPredictors
from headstrip.errors import HeadstripError, HeadstripWarning, OptionError
from headstrip.system.memory import memory_limit, shown_bytes

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_log = logging.getLogger("headstrip.attributes")

STRENGTHS = tuple(10 ** (power / 2) for power in range(-10, 3))
"""The grid of ``C``: 13 values from 1e-5 to 10."""

_TAKEN = ("path", "error")
NEAR = 0.98
"""Cosine similarity above which ``near_duplicates`` puts two images into the same part."""

_AVERAGED = {
    "class": ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece", "ece_temperature"),
    "labels": ("map", "accuracy", "macro_f1", "log_loss"),
    "number": ("r2",),
}


@dataclass(frozen=True, slots=True)
class FitProgress:
    """One attribute that was fitted.

    Attributes:
        name: Name of the attribute.
        done: Number of attributes that are done.
        total: Number of all attributes.
    """

    name: str
    done: int
    total: int


def fit_predictors(
    embeddings: str | os.PathLike[str] | np.ndarray,
    labels: Any = None,
    *,
    attributes: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    paths: Sequence[str] | None = None,
    encoder: Encoder | None = None,
    path_column: str | None = None,
    path_prefix: str = "",
    split_column: str | None = None,
    test: float = 0.2,
    validation: float = 0.2,
    near_duplicates: bool = False,
    keep_nan_strings: bool = False,
    class_weight: Literal["balanced"] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    method: Literal["default", "sgd"] = "default",
    seed: int = 0,
    progress: Callable[[FitProgress], None] | None = None,
) -> FittedPredictors:
    """Fit one linear predictor per attribute to embeddings, and measure it on held-out images.

    headstrip fits classes and labels by regularised logistic regression, and numbers by ridge
    regression. It fits the training part with each strength, chooses the strength with the
    smallest loss on the validation part, fits both parts with that strength, and measures the
    result on the test part. An image without a label of one attribute still counts for the other
    attributes. The result depends neither on the order of rows nor on which attributes are fitted
    together.

    Args:
        embeddings: A file that ``headstrip embed`` wrote; or an array of shape (images, dim), with
            ``paths``.
        labels: A table with one row per image: the path of a CSV, TSV or Parquet file, the path of
            a folder with one folder per class, or a DataFrame. By default the columns that
            ``headstrip embed --keep`` copied into the file of embeddings.
        attributes: Columns to fit; by default every column except the paths and the parts.
        kinds: The kinds of attributes, such as ``{"age": "number"}``; by default headstrip infers
            them from the cells.
        paths: The path of each row of an array.
        encoder: The encoder that computed an array; a file states its encoder.
        path_column: The column with the paths; by default ``path``, ``image``, ``file``,
            ``filename`` or ``file_name``.
        path_prefix: Removed from the start of each path in the table, such as ``photos/``.
        split_column: The column that has ``train``, ``validation`` or ``test`` for each image; by
            default headstrip divides the images of each class at random.
        test: Share of the images that are held out for the measures.
        validation: Share of the other images, to choose the strength on.
        near_duplicates: Whether to put images whose embeddings have a cosine similarity above 0.98
            into the same part. Images with equal bytes or equal embeddings are always in the same
            part.
        keep_nan_strings: Whether text such as ``NaN`` or ``NA`` is a label instead of a missing
            value.
        class_weight: ``"balanced"`` to give images of rare classes more weight: the inverse of the
            frequency of the class.
        strengths: Values of ``C`` to choose from; a smaller value is a stronger penalty.
        method: ``"sgd"`` for embeddings that do not fit in memory: AdamW over mini-batches from the
            file, until the loss on the validation part stops decreasing. The result depends on the
            order of the rows in the file.
        seed: Seed of the parts, of the shuffled labels and of the intervals.
        progress: Called after each attribute.

    Returns:
        The predictors. Their ``report`` has the numbers of the join and the measures, and their
        ``held_out`` has the predictions for the held-out images.

    Raises:
        HeadstripError: A file cannot be read, less than half of the paths join, no attribute can
            be fitted, or there is not enough memory.
        OptionError: An option has an invalid value.

    Example:
        >>> import numpy as np
        >>> points = np.random.default_rng(0).normal(size=(60, 4))
        >>> names = [f"{row}.jpg" for row in range(60)]
        >>> table = {"path": names, "side": ["left" if x < 0 else "right" for x in points[:, 0]]}
        >>> fitted = fit_predictors(points, table, paths=names)
        >>> fitted.attributes
        (Attribute(name='side', kind='class', classes=('left', 'right')),)
        >>> fitted.report["attributes"]["side"]["measures"]["accuracy"]["value"] > 0.7
        True
    """
    settings = _checked(test, validation, class_weight, strengths, seed, method)
    is_streamed = method == "sgd"
    if is_streamed:
        _check_streamed(embeddings, near_duplicates, strengths)
    if labels is None and not isinstance(embeddings, (str, os.PathLike)):
        raise OptionError("An array of embeddings has no labels. Pass a table as labels=.")
    table = read_labels(
        embeddings if labels is None else labels,
        path_column=path_column,
        path_prefix=path_prefix,
        keep_nan_strings=keep_nan_strings,
    )
    if isinstance(embeddings, (str, os.PathLike)):
        if paths is not None or encoder is not None:
            raise OptionError(
                "A file of embeddings has the paths and the encoder. Leave out paths= and encoder=."
            )
        file = open_embeddings(embeddings)
        if is_streamed:
            images = images_of_stream(embeddings)
        else:
            _check_loading(file)
            images = images_of_file(embeddings)
    else:
        described = describe_encoder(encoder) if encoder is not None else {}
        images = images_of_array(embeddings, paths, described)
    if labels is None and not table.columns and not table.unusable:
        raise HeadstripError(
            f"{table.shown} has no columns of labels. Pass a table with --labels (labels=), or "
            "copy columns of a list into it with `headstrip embed --keep`."
        )
    names = _chosen(attributes, table, split_column)
    if split_column is not None and split_column in table.unusable:
        raise HeadstripError(
            f"The column {split_column!r:.60} of the split has the type "
            f"{table.unusable[split_column]:.60}, and must have the words 'train', 'validation' "
            "and 'test'. Pass another column with --split-column (split_column=)."
        )
    checked = {**table.kinds, **check_kinds(kinds or {}, names)}
    joined = join(images, table)
    targets, skipped = _targets(joined, table, names, checked)
    if not is_streamed:
        rows, dim = joined.embeddings.shape
        check_memory(rows, dim, [one.attribute.outputs for one in targets])
    near = NEAR if near_duplicates else None
    groups = groups_of(joined.embeddings, joined.checksums, near)
    parts = None if split_column is None else _given_parts(joined, split_column)
    if parts is not None:
        _warn_of_copies(groups, parts)
    if is_streamed:
        fits, failed = fit_streamed(
            file, joined, targets, groups, parts, settings, _counting(targets, progress)
        )
    else:
        fits, failed = _fit_all(joined, targets, groups, parts, settings, progress)
    if not fits:
        raise HeadstripError(
            "No attribute can be fitted: "
            + "; ".join(f"{name!r:.60}: {why}" for name, why in {**skipped, **failed}.items())
            + ". Correct the labels, or embed more images."
        )
    report = {
        "join": joined.report.to_json(),
        "duplicates": int(len(groups) - len(np.unique(groups))),
        "settings": {
            **settings.to_json(),
            "split_column": split_column,
            "near_duplicates": near_duplicates,
            "keep_nan_strings": keep_nan_strings,
        },
        "attributes": {one.attribute.name: one.report for one in fits},
        "skipped": {**skipped, **failed},
        "average": _averages(fits),
        "versions": {
            "headstrip": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    return FittedPredictors(
        tuple(one.attribute for one in fits),
        {one.attribute.name: one.weight for one in fits},
        {one.attribute.name: one.bias for one in fits},
        images.encoder,
        report,
        held_out={one.attribute.name: one.held_out for one in fits if one.held_out is not None},
    )


def _counting(
    targets: Sequence[Target], progress: Callable[[FitProgress], None] | None
) -> Callable[[str], None]:
    """Return a function that counts finished attributes and reports them to ``progress``."""
    numbers = count(1)

    def notify(name: str) -> None:
        if progress is not None:
            progress(FitProgress(name, next(numbers), len(targets)))

    return notify


def _check_loading(file: EmbeddingsFile) -> None:
    """Refuse a file whose embeddings do not fit in memory."""
    size, limit = file.rows * file.dim * file.dtype.itemsize, memory_limit()
    if limit is not None and size > limit:
        raise HeadstripError(
            f"The embeddings in {str(file.path)!r} take {shown_bytes(size)}, and this process may "
            f"use {shown_bytes(limit)} of memory. Pass --method sgd (method='sgd'), which reads a "
            "part of them at a time."
        )


def _check_streamed(embeddings: Any, near_duplicates: bool, strengths: Sequence[float]) -> None:
    """Refuse what needs all embeddings in memory."""
    if not isinstance(embeddings, (str, os.PathLike)):
        raise OptionError(
            "method='sgd' reads a file that `headstrip embed` wrote, and an array is in memory "
            "already. Pass the file, or leave out method=."
        )
    if near_duplicates:
        raise OptionError(
            "--near-duplicates (near_duplicates=) compares all embeddings, which --method sgd does "
            "not hold in memory. Leave out one of the two."
        )
    if tuple(strengths) != STRENGTHS:
        raise OptionError(
            "--strength (strengths=) has no effect with --method sgd, which stops early instead. "
            "Leave out one of the two."
        )


def _checked(
    test: float,
    validation: float,
    class_weight: Any,
    strengths: Sequence[float],
    seed: int,
    method: str,
) -> Settings:
    if method not in ("default", "sgd"):
        raise OptionError(f"method must be 'default' or 'sgd', got {method!r:.60}.")
    for name, value in {"test": test, "validation": validation}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise OptionError(f"{name} must be between 0 and 1, such as 0.2, got {value!r:.60}.")
    if class_weight not in (None, "balanced"):
        raise OptionError(f"class_weight must be 'balanced' or None, got {class_weight!r:.60}.")
    try:
        values = tuple(float(one) for one in strengths)
    except (TypeError, ValueError):
        values = ()
    if not values or not all(0 < one < float("inf") for one in values):
        raise OptionError(
            f"strengths must be positive numbers, such as [0.01, 0.1, 1], got {strengths!r:.100}."
        )
    used = tuple(sorted(set(values))) if method == "default" else ()
    return Settings(test, validation, class_weight, used, checked_seed(seed), method)


def _chosen(
    attributes: Sequence[str] | None, table: LabelTable, split_column: str | None
) -> list[str]:
    if attributes is not None:
        attributes = checked_names("attributes", attributes, "colour")
    table.check_columns(attributes or ())
    if split_column is not None:
        table.check_columns([split_column])
    if attributes is not None and len(set(attributes)) != len(attributes):
        raise OptionError(f"attributes={list(attributes)!r:.100} has a name twice. Name each once.")
    names = [one for one in attributes or table.names if one != split_column]
    if taken := [name for name in names if name in _TAKEN]:
        raise HeadstripError(
            f"The column {taken[0]!r} cannot be an attribute, because `headstrip predict` writes a "
            "column of that name. Rename it, or name the attributes with --attribute (attributes=)."
        )
    if not names:
        raise HeadstripError(
            "The table of labels has no column of labels. Add one, such as 'colour'."
        )
    return names


def _targets(
    joined: Joined, table: LabelTable, names: Sequence[str], kinds: Mapping[str, Any]
) -> tuple[list[Target], dict[str, str]]:
    targets, skipped = [], {}
    for name in names:
        if (unusable := table.why_unusable(name)) is not None:
            skipped[name] = unusable
            continue
        found = target_of(name, joined.columns[name], kinds.get(name))
        if isinstance(found, str):
            skipped[name] = found
        else:
            targets.append(found)
    return targets, skipped


def _given_parts(joined: Joined, column: str) -> np.ndarray:
    """Return the parts that the split column states."""
    parts = [
        _part(cell, column, joined.paths[row]) for row, cell in enumerate(joined.columns[column])
    ]
    for part, name in ((TRAIN, "train"), (TEST, "test")):
        if part not in parts:
            raise HeadstripError(
                f"The column {column!r:.60} puts no image into {name!r}. Fill it in, or leave out "
                "--split-column (split_column=)."
            )
    return np.array(parts)


def _warn_of_copies(groups: np.ndarray, parts: np.ndarray) -> None:
    copies = np.isin(groups, groups[parts != TEST]) & (parts == TEST)
    if count := int(copies.sum()):
        warnings.warn(
            f"{count} of the {int((parts == TEST).sum())} images in 'test' are copies of images in "
            "the other parts, so the measures look better than they are. Put copies into one part.",
            HeadstripWarning,
            stacklevel=3,
        )


def _part(cell: Cell, column: str, path: str) -> int:
    part = PART_OF.get(str(cell).strip().lower()) if cell is not None else None
    if part is None:
        raise HeadstripError(
            f"The column {column!r:.60} has {cell!r:.60} for {path!r:.120}. Write 'train', "
            "'validation' or 'test'."
        )
    return part


def _fit_all(
    joined: Joined,
    targets: Sequence[Target],
    groups: np.ndarray,
    parts: np.ndarray | None,
    settings: Settings,
    progress: Callable[[FitProgress], None] | None,
) -> tuple[list[AttributeFit], dict[str, str]]:
    fits, failed = [], {}
    axes = None
    for done, target in enumerate(targets, 1):
        rows, dim = len(target.rows), joined.embeddings.shape[1]
        if axes is None and rows >= dim and target.attribute.kind != "number":
            # All images, so that the axes do not depend on which attributes are fitted.
            everything = torch.from_numpy(joined.embeddings).double()
            axes = Axes.of(standardize(everything)[0])
            del everything
        name = target.attribute.name
        found = fit_attribute(joined, target, groups, parts, settings, axes)
        if isinstance(found, str):
            failed[name] = found
            _log.info("%r is left out: %s", name, found)
        else:
            fits.append(found)
        if progress is not None:
            progress(FitProgress(name, done, len(targets)))
    return fits, failed


def _averages(fits: Sequence[AttributeFit]) -> dict[str, dict[str, float]]:
    """Average each measure over the attributes of one kind."""
    averages: dict[str, dict[str, float]] = {}
    for kind, names in _AVERAGED.items():
        of_kind = [one.report["measures"] for one in fits if one.attribute.kind == kind]
        for name in names:
            values = [one[name]["value"] for one in of_kind if one[name]["value"] is not None]
            if values:
                averages.setdefault(kind, {})[name] = float(np.mean(values))
    return averages
