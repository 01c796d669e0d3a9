"""The names of classes that a user gives, in a list, a mapping or a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from headstrip.encoder.encoder import Encoder
from headstrip.errors import one_line
from headstrip.system import bounded_json

LabelsArgument: TypeAlias = "Sequence[str] | Mapping[int, str] | str | os.PathLike[str]"

_MAX_LENGTH = 1_000
_SHOWN = 100
_TEXT = ("", ".txt", ".names", ".list", ".lst")
"""Suffixes of text files with one name per line."""

_WITH_INDEX = (re.compile(r"(\d+)[\s,;:]\s*\S.*"), re.compile(r".*\S\s*[\s,;:](\d+)"))
_MAPPINGS = ("id2label", "label2id", "class_to_idx")


def read_labels(labels: LabelsArgument) -> tuple[str, ...]:
    """Return names of classes in the order of the logits.

    Args:
        labels: The names; a mapping of their indices to them, such as ``id2label``; or the path of
            a file: ``.json`` with one of these, with ``label2id`` or with ``class_to_idx``, or
            text with one name per line.

    Raises:
        ValueError: The file cannot be read, or something is not a name.
    """
    names: Any = labels
    about = f"labels={labels!r:.{_SHOWN}}"
    try:
        if isinstance(labels, (str, os.PathLike)):
            about = f"labels={os.fspath(labels)!r}"
            names = _read(Path(os.path.expanduser(labels)))
        names = _in_order(names)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{about} cannot be read as names of classes ({one_line(error, 200)}). Pass a list, a "
            "text file with one name per line, or JSON."
        ) from error
    if not isinstance(names, (list, tuple)):
        raise ValueError(
            f"{about} is not a list of names. Pass one text per class, or the path of a file."
        )
    for index, name in enumerate(names):
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_LENGTH:
            raise ValueError(
                f"{about} has {name!r:.{_SHOWN}} for the class {index}. Pass a name of 1 to "
                f"{_MAX_LENGTH:,} characters for each class."
            )
    return tuple(names)


def refuse_other_count(labels: tuple[str, ...], encoder: Encoder) -> None:
    """Refuse labels if their number is not the number of classes of an encoder's head.

    Raises:
        ValueError: The numbers differ, or the encoder has no head.
    """
    classes = None
    if encoder.head is not None:
        device, dtype = encoder.device, encoder.dtype
        with encoder.evaluating():
            one = torch.zeros(1, encoder.output_dim, device=device, dtype=dtype)
            classes = encoder.head(one).shape[-1]
    if classes != len(labels):
        raise ValueError(
            f"labels has {len(labels)} names, and the encoder of {encoder.spec.qualified_name} has "
            f"{f'{classes} classes' if classes else 'no head'}. "
            f"{'Pass one name for each class.' if classes else 'Leave labels out.'}"
        )


def _read(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return bounded_json.read(path, "it")
    if suffix not in _TEXT:
        raise ValueError(f"headstrip reads names from .json and .txt, not from {suffix}")
    text = path.read_text(encoding="utf-8-sig").rstrip("\n")
    lines = [line.rstrip() for line in text.split("\n")] if text else []
    if text.startswith(("{", "[")):
        raise ValueError("it holds JSON, and its name does not end with .json")
    if any(_are_indices(pattern, lines) for pattern in _WITH_INDEX):
        raise ValueError(
            "its lines have indices beside the names. Write the names alone, in the order of the "
            "logits, or write indices and names as JSON"
        )
    return lines


def _are_indices(pattern: re.Pattern[str], lines: list[str]) -> bool:
    """Whether the lines have consecutive indices from 0 or 1, each once, beside the names."""
    found = [pattern.fullmatch(line) for line in lines]
    indices = sorted(int(one[1][:_MAX_LENGTH]) for one in found if one)
    counted = [list(range(first, first + len(lines))) for first in (0, 1)]
    return len(lines) > 1 and indices in counted


def _in_order(content: Any) -> Any:
    """Return the names in a mapping, in the order of their indices; anything else unchanged."""
    if not isinstance(content, Mapping):
        return content
    inside = [content[key] for key in _MAPPINGS if isinstance(content.get(key), Mapping)]
    orders = [_by_index(mapping) for mapping in inside or [content]]
    if any(one != orders[0] for one in orders):
        raise ValueError(f"its {' and '.join(key for key in _MAPPINGS if key in content)} differ")
    return orders[0]


def _by_index(mapping: Mapping[Any, Any]) -> list[Any]:
    wanted = [str(index) for index in range(len(mapping))]
    if wanted and all(type(index) is int for index in mapping.values()):
        mapping = {index: name for name, index in mapping.items()}
    names = {str(index): name for index, name in mapping.items()}
    if names.keys() != set(wanted):
        raise ValueError(f"its indices must be 0 to {len(wanted) - 1}, each once")
    return [names[index] for index in wanted]
