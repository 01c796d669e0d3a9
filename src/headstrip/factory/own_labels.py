"""The names of classes that a user gives, in a list, a mapping or a file."""

from __future__ import annotations

import os
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


def read_labels(labels: LabelsArgument) -> tuple[str, ...]:
    """Return names of classes in the order of the logits.

    Args:
        labels: The names; a mapping of their indices to them, such as ``id2label``; or the path of
            a file: ``.json`` with one of these or with ``class_to_idx``, or text with one name per
            line.

    Raises:
        ValueError: The file cannot be read, or something is not a name.
    """
    names: Any = labels
    about = f"labels={labels!r:.{_SHOWN}}"
    try:
        if isinstance(labels, (str, os.PathLike)):
            about = f"labels={os.fspath(labels)!r}"
            names = _read(Path(labels).expanduser())
        names = _in_order(names)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{about} cannot be read as names of classes ({one_line(error)[:200]}). Pass a list, a "
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
    """Refuse names of classes that are more or fewer than the classes of an encoder's head.

    Raises:
        ValueError: They are, or the encoder has no head.
    """
    classes = None
    if encoder.head is not None:
        device, dtype = encoder.place()
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
    if path.suffix.lower() == ".json":
        return bounded_json.read(path, "it")
    text = path.read_text(encoding="utf-8-sig").rstrip("\n")
    return [line.rstrip() for line in text.split("\n")] if text else []


def _in_order(content: Any) -> Any:
    """Return the names in a mapping, in the order of their indices; anything else unchanged."""
    if isinstance(content, Mapping) and isinstance(content.get("id2label"), Mapping):
        content = content["id2label"]
    if not isinstance(content, Mapping):
        return content
    wanted = [str(index) for index in range(len(content))]
    if wanted and all(type(index) is int for index in content.values()):
        content = {index: name for name, index in content.items()}
    by_index = {str(index): name for index, name in content.items()}
    if by_index.keys() != set(wanted):
        raise ValueError(f"its indices must be 0 to {len(wanted) - 1}, each once")
    return [by_index[index] for index in wanted]
