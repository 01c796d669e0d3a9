"""Turn cells of a table into attributes and labels to fit: kinds, classes, missing labels."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from headstrip.attributes.labels import SEPARATOR, Cell, labels_in
from headstrip.encoder.attribute import KINDS, Attribute, Kind
from headstrip.errors import HeadstripError, HeadstripWarning, OptionError

_MOST_CODES = 20
"""Largest number of different integers that are treated as classes."""

_SMALLEST, _LARGEST, _CLOSEST = 1e-30, 1e30, 1e-5
"""The largest number, and the smallest deviation, absolute and relative to the largest number.

float32 ends at 3e38, and distinguishes numbers that differ by 1e-7 of their size.
"""


@dataclass(frozen=True)
class Target:
    """The labels of one attribute.

    Attributes:
        attribute: The attribute, with all its classes.
        rows: Rows that have a label, ascending; int array of shape (N,).
        values: Labels of these rows: for ``class`` indices of classes (N,), for ``labels`` bool
            (N, classes), for ``number`` float64 (N,).
    """

    attribute: Attribute
    rows: np.ndarray
    values: np.ndarray


def target_of(name: str, cells: Sequence[Cell], kind: Kind | None) -> Target | str:
    """Return the labels of an attribute, or why no predictor can be fitted to them.

    Args:
        name: Name of the attribute.
        cells: Its cells, one per image.
        kind: The kind; None to infer it.

    Raises:
        HeadstripError: A cell does not fit the kind that the caller chose.
    """
    rows = np.flatnonzero([cell is not None for cell in cells])
    known = [cell for cell in cells if cell is not None]
    if kind is None:
        kind = infer_kind(known)
        _warn_of_text_among_numbers(name, known, kind)
    if not len(rows):
        return "no image has a label"
    if kind == "number":
        return _numbers(name, rows, known)
    found = _labels(rows, known, name) if kind == "labels" else _classes(rows, known, name)
    if kind == "class" and len(found.attribute.classes) < 2:
        (only,) = found.attribute.classes
        return f"all {len(rows)} labels are {only!r:.60}, and a predictor needs two classes"
    if kind == "class" and len(found.attribute.classes) == len(rows):
        return f"each of its {len(rows)} labels belongs to one image only"
    if kind == "labels" and not found.values.any():
        return "no image has any of its labels"
    return found


def infer_kind(cells: Sequence[Cell]) -> Kind:
    """Infer the kind of an attribute from its cells.

    Lists, and text with ``|``, make the kind ``labels``. If all cells are numbers, the kind is
    ``number`` if one has a fraction or more than 20 are different; otherwise the numbers are codes
    of classes, and the kind is ``class``.

    Example:
        >>> infer_kind(["red", None, "blue"]), infer_kind(["a|b", "a"]), infer_kind(["1.5", "2"])
        ('class', 'labels', 'number')
    """
    known = [cell for cell in cells if cell is not None]
    if any(isinstance(cell, tuple) for cell in known):
        return "labels"
    if any(isinstance(cell, str) and SEPARATOR in cell for cell in known):
        return "labels"
    numbers = [_number(cell) for cell in known]
    if not numbers or any(number is None for number in numbers):
        return "class"
    different = {number for number in numbers if number is not None}
    has_fraction = any(not number.is_integer() for number in different)
    return "number" if has_fraction or len(different) > _MOST_CODES else "class"


def _warn_of_text_among_numbers(name: str, known: Sequence[Cell], kind: Kind) -> None:
    """Warn if a column would be a number without a few cells that are text."""
    numbers = [cell for cell in known if _number(cell) is not None]
    if kind == "number" or 2 * len(numbers) <= len(known) or infer_kind(numbers) != "number":
        return
    odd = [cell for cell in known if _number(cell) is None]
    warnings.warn(
        f"The column {name!r:.60} has {len(numbers):,} numbers, and {odd[0]!r:.60} in {len(odd):,} "
        f"other cells, so headstrip takes it as {kind!r}. Correct these cells or leave them empty, "
        f"or pass --kind {name:.60}={kind} (kinds=) if that is right.",
        HeadstripWarning,
        stacklevel=4,
    )


def check_kinds(kinds: Mapping[str, str], names: Sequence[str]) -> dict[str, Kind]:
    """Return the kinds that a caller chose, after checking them.

    Raises:
        OptionError: A kind is unknown, or is given for an attribute that is not fitted.
    """
    if not isinstance(kinds, Mapping):
        raise OptionError(
            f"kinds must map names of attributes to kinds, such as {{'age': 'number'}}, got "
            f"{kinds!r:.60}."
        )
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise OptionError(
                f"The kind of {name!r:.60} is {kind!r:.60}. Pass one of "
                f"{', '.join(map(repr, KINDS))}."
            )
        if name not in names:
            known = ", ".join(f"{one!r:.60}" for one in names[:8])
            raise OptionError(
                f"A kind is given for {name!r:.60}, and there is no such attribute. The attributes "
                f"are {known}."
            )
    return {name: cast(Kind, kind) for name, kind in kinds.items()}


def _classes(rows: np.ndarray, known: Sequence[Cell], name: str) -> Target:
    for cell in known:
        if isinstance(cell, tuple):
            raise HeadstripError(
                f"The attribute {name!r:.60} has lists of labels, which are not of kind 'class'. "
                "Pass the kind 'labels'."
            )
    texts = _texts(known)
    classes = sorted(set(texts), key=_order(texts))
    index = {one: at for at, one in enumerate(classes)}
    values = np.array([index[text] for text in texts], np.int64)
    return Target(Attribute(name, "class", tuple(classes)), rows, values)


def _labels(rows: np.ndarray, known: Sequence[Cell], name: str) -> Target:
    found = [set(labels_in(cell)) for cell in _texts(known)]
    counts = Counter(label for labels in found for label in labels)
    classes = sorted(counts, key=_order(list(counts)))
    index = {one: at for at, one in enumerate(classes)}
    values = np.zeros((len(rows), max(1, len(classes))), bool)
    for row, labels in enumerate(found):
        values[row, [index[label] for label in labels]] = True
    return Target(Attribute(name, "labels", tuple(classes) or ("",)), rows, values)


def _numbers(name: str, rows: np.ndarray, known: Sequence[Cell]) -> Target | str:
    values = []
    for cell in known:
        number = _number(cell)
        if number is None:
            raise HeadstripError(
                f"The attribute {name!r:.60} has {cell!r:.60}, which is not a finite number. Pass "
                "another kind, or correct the table."
            )
        values.append(number)
    array = np.array(values, np.float64)
    if (array == array[0]).all():
        return f"all {len(rows)} labels are {array[0]:g}"
    size = np.abs(array).max()
    # The square of larger numbers is infinite.
    if size > _LARGEST or array.std() < max(_SMALLEST, _CLOSEST * size):
        return (
            f"its labels, from {array.min():.10g} to {array.max():.10g}, are too large, too small "
            "or too close together for a predictor, which computes in float32: subtract their "
            "mean, and divide by their standard deviation"
        )
    return Target(Attribute(name, "number"), rows, array)


def _texts(known: Sequence[Cell]) -> list[Any]:
    """Return cells as names of classes; tuples stay unchanged.

    If a column of integers has missing cells, pandas turns it into floats, and writes ``0.0``. So
    in a column of integers ``0.0`` and ``"0.0"`` become ``0``.
    """
    numbers = [_number(cell) for cell in known]
    if all(number is not None and number.is_integer() for number in numbers):
        return [_code(cell) for cell in known]
    return [cell if isinstance(cell, tuple) else str(cell) for cell in known]


def _code(cell: Cell) -> str:
    """Return an integer as text; text without a fraction, such as ``007``, stays unchanged."""
    text = str(cell)
    return text if text.lstrip("+-").isdigit() else str(int(float(text)))


def _number(cell: Cell) -> float | None:
    if isinstance(cell, (bool, tuple)) or cell is None:
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    # float() accepts underscores, such as "1_000".
    is_plain = not isinstance(cell, str) or "_" not in cell
    return number if math.isfinite(number) and is_plain else None


def _order(texts: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """Return a sort key: integers sort by value, other text by its characters."""
    are_integers = all(text.isascii() and text.lstrip("-").isdigit() for text in texts)
    return (lambda text: (int(text), text)) if are_integers else (lambda text: (0, text))


def encoded(attribute: Attribute, cells: Sequence[Cell], paths: Sequence[str]) -> np.ndarray:
    """Return cells as numbers, in the form that ``Predictors.loss`` takes.

    Args:
        attribute: The attribute, whose classes are known.
        cells: Its cells, one per image.
        paths: The paths of the images, for messages.

    Returns:
        For ``class`` int64 (N,), -1 where missing; for ``labels`` float32 (N, classes), and for
        ``number`` float32 (N,), NaN where missing.

    Raises:
        HeadstripError: A cell is not one of the classes, or not a finite number.
    """
    index = {one: at for at, one in enumerate(attribute.classes)}
    shape = (len(cells), len(index)) if attribute.kind == "labels" else (len(cells),)
    if attribute.kind == "class":
        values = np.full(shape, -1, np.int64)
    else:
        values = np.full(shape, np.nan, np.float32)
    rows = [row for row, cell in enumerate(cells) if cell is not None]
    known = [cells[row] for row in rows]
    for row, cell in zip(rows, _texts(known) if attribute.kind == "class" else known, strict=True):
        if attribute.kind == "number":
            number = _number(cell)
            if number is None or abs(number) > float(np.finfo(np.float32).max):
                raise HeadstripError(
                    f"The attribute {attribute.name!r:.60} is a number, and {paths[row]!r:.120} "
                    f"has {cell!r:.60}, which is not a finite one in float32. Correct the table."
                )
            values[row] = number
            continue
        if cell == () and attribute.kind == "class":
            continue
        is_class = attribute.kind == "class"
        # A list cannot be one class, so headstrip refuses it as an unknown label.
        labels = [cell] if is_class and not isinstance(cell, tuple) else [*labels_in(cell)]
        if unknown := [one for one in labels if one not in index] or (is_class and labels[1:]):
            shown = ", ".join(f"{one!r:.40}" for one in attribute.classes[:8])
            raise HeadstripError(
                f"The attribute {attribute.name!r:.60} has the label {unknown[0]!r:.60} for "
                f"{paths[row]!r:.120}, and its {len(index):,} classes are {shown}"
                f"{', ...' if len(index) > 8 else ''}. Correct the table, or build the encoder "
                "with the classes of the table."
            )
        if is_class:
            values[row] = index[labels[0]]
        else:
            values[row] = 0
            values[row, [index[one] for one in labels]] = 1
    return values
