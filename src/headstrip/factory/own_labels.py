"""The names of classes that a user gives, in a list or in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstrip.encoder.encoder import Encoder
from headstrip.errors import one_line
from headstrip.system import bounded_json


def checked_labels(
    labels: Sequence[str] | str | os.PathLike[str], encoder: Encoder
) -> tuple[str, ...]:
    """Return the names of the classes of an encoder's head.

    Args:
        labels: The names, or the path of a file with them.
        encoder: The encoder.

    Raises:
        ValueError: The file cannot be read, the names are not texts, or the head has another number
            of classes.
    """
    if isinstance(labels, (str, os.PathLike)):
        source, names = f"{os.fspath(labels)!r}", _read(Path(labels).expanduser())
    else:
        source, names = f"labels={labels!r:.100}", labels
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        raise ValueError(
            f"{source} is not a list of names. Pass one text per class, or the path of a file."
        )
    classes = getattr(encoder.head, "out_features", None)
    if encoder.head is None or classes not in (None, len(names)):
        has = "has no head" if encoder.head is None else f"has {classes} classes"
        raise ValueError(
            f"{source} has {len(names)} names, and the encoder of {encoder.spec.qualified_name} "
            f"{has}. Pass one name for each class of the head."
        )
    return tuple(names)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return _in_order(bounded_json.read(path, "it"))
        return path.read_text(encoding="utf-8-sig").rstrip("\n").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as names of classes ({one_line(error)[:200]}). Pass a "
            "text file with one name per line, or JSON."
        ) from error


def _in_order(content: Any) -> Any:
    """Return the names in a JSON value: a list, or an object with their indices as keys."""
    if isinstance(content, Mapping) and isinstance(content.get("id2label"), Mapping):
        content = content["id2label"]
    if not isinstance(content, Mapping):
        return content
    names = [content.get(str(index)) for index in range(len(content))]
    if None in names:
        raise ValueError(
            f"its keys must be the indices from 0 to {len(content) - 1}: {json.dumps(content)[:80]}"
        )
    return names
