"""The images of a comparison: readable images with a label, and the groups of copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstrip.attributes.labels import Cell, LabelTable
from headstrip.attributes.splitting import connected
from headstrip.attributes.titles import JOIN
from headstrip.compare.embedding import Embedded, Run, embed, read_columns, read_rows
from headstrip.compare.pixels import look_alikes, pixel_encoder, pixel_marks
from headstrip.errors import HeadstripError


@dataclass(frozen=True)
class LabelledImages:
    """Readable images with a label, sorted by path.

    Attributes:
        paths: The paths.
        groups: The first row of the group of each image; a group has all copies of an image.
        columns: The cells of each attribute.
        bad: Labelled images that cannot be read, with the reason, by path.
        pixels: The file with their 16 x 16 pixels.
        unusable: Columns that cannot have labels, with the reason, by name.
        notes: Sentences about rows and cells of the table that were left out.
    """

    paths: list[str]
    groups: np.ndarray = field(repr=False)
    columns: Mapping[str, list[Cell]] = field(repr=False)
    bad: Mapping[str, str]
    pixels: Embedded
    unusable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def attributes_of(table: LabelTable, chosen: Sequence[str] | None) -> list[str]:
    """Return the columns to predict: those that the caller chose, or all.

    Raises:
        HeadstripError: The table has no such column, or no column of labels.
    """
    table.check_columns(chosen or ())
    if not table.names:
        raise HeadstripError(
            f"{table.shown} has no column of labels. Add one, such as 'colour', or pass a folder "
            "that has a folder of images per class."
        )
    return list(dict.fromkeys(chosen or table.names))


def read_images(
    run: Run, table: LabelTable, names: Sequence[str], near_duplicates: bool
) -> LabelledImages:
    """Read the pixels of all images with a label, and find copies.

    Args:
        run: The images and the settings to embed them.
        table: The labels.
        names: The attributes.
        near_duplicates: Whether images that look the same at 16 x 16 pixels are copies.

    Raises:
        HeadstripError: No image with a label can be read.
    """
    row_of = {path: row for row, path in enumerate(table.paths)}
    unusable = {name: why for name in names if (why := table.why_unusable(name))}
    names = [name for name in names if name not in unusable]
    listed: dict[str, int] = {}
    taken: set[int] = set()
    unlabelled = 0
    for item in run.source.items():
        # A table of labels removes the "./" before its paths, and a source keeps it.
        row = row_of.get(item.path, row_of.get(item.path.removeprefix("./")))
        if row in taken:
            continue
        if row is not None and any(table.columns[name][row] is not None for name in names):
            listed[item.path] = row
            taken.add(row)
        else:
            unlabelled += 1
    if not listed:
        raise HeadstripError(f"{table.shown} has no image with a label. Fill in the labels.")
    pixels = embed(run, pixel_encoder(), "pixels", list(listed))
    read = read_columns(pixels.file, ["path", "width", "height", "error", "checksum"])
    rows = {path: row for row, path in enumerate(read["path"]) if path in listed}
    bad = {path: read["error"][row] for path, row in rows.items() if read["error"][row] is not None}
    good = sorted(path for path in rows if path not in bad)
    if not good:
        path, reason = next(iter(bad.items()))
        raise HeadstripError(
            f"None of the {len(listed):,} images with a label can be read; one is {path!r:.120}: "
            f"{reason} Check the paths."
        )
    found, _ = read_rows(pixels.file, good)
    at = [rows[path] for path in good]
    sizes = [(read["width"][row] or 0, read["height"][row] or 0) for row in at]
    marks = [[read["checksum"][row] for row in at], pixel_marks(found, sizes)]
    pairs = look_alikes(found) if near_duplicates else ()
    groups = connected(len(good), marks, pairs)
    columns = {name: [table.columns[name][listed[path]] for path in good] for name in names}
    counts = {
        "without_labels": unlabelled,
        "repeated_rows": table.repeated_rows,
        "nan_cells": table.nan_cells,
        "stripped_cells": table.stripped_cells,
    }
    notes = tuple(
        f"{table.shown}: {count:,} {JOIN[key]}." for key, count in counts.items() if count
    )
    return LabelledImages(good, groups, columns, bad, pixels, unusable, notes)
