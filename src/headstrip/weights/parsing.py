"""The content of an open weights file, whatever its format; nothing in it is ever executed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from headstrip.errors import WeightsError
from headstrip.system.os_errors import explain_exhaustion
from headstrip.weights.description import DESCRIPTION, restore
from headstrip.weights.mapping import Guard, guard
from headstrip.weights.problems import (
    START,
    damaged,
    is_of_the_disk,
    not_readable,
    reason_of,
    wrong_kind,
)
from headstrip.weights.records import is_copy
from headstrip.weights.safetensors_file import read_safetensors
from headstrip.weights.torch_file import read_torch


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a weights file holds.

    Attributes:
        content: The object as read. Its tensors are on the CPU, each starts at a multiple of 64
            bytes, and writing to one never changes the file.
        guard: What notices that the file is rewritten in place, for as long as tensors of it are
            in use; None where none is mapped.
        mapped_bytes: How many bytes of tensors are mapped.
    """

    content: object
    guard: Guard | None
    mapped_bytes: int


def parse(
    path: Path,
    file: BinaryIO,
    *,
    mapped: bool,
    checked: bool,
    read_before: bool = False,
    limit: int | None = None,
) -> Parsed:
    """Read an open weights file.

    Args:
        path: Its name, for messages and for its format: ``.safetensors``, or what ``torch.save``
            writes.
        file: The open file; it may be closed afterwards.
        mapped: Whether to map what can be mapped.
        checked: Whether its bytes equal a known hash. Else the checksums in it are compared.
        read_before: Whether these bytes were read before, so that torch accepted them.
        limit: The most bytes of tensors that it may hold, None for any.

    Raises:
        WeightsError: It cannot be read, is damaged, holds more than tensors and plain values, or
            more than ``limit``.
    """
    try:
        return _parse(
            path, file, mapped=mapped, checked=checked, read_before=read_before, limit=limit
        )
    except WeightsError:
        raise
    except Exception as error:
        # The parsers raise what they happen to meet: UnpicklingError, RuntimeError, EOFError,
        # OSError, KeyError and more.
        if is_of_the_disk(error):
            raise not_readable(path, error) from error
        if exhausted := explain_exhaustion(error, f"{path} cannot be read"):
            raise WeightsError(exhausted) from error
        raise damaged(path, reason_of(error)) from error


def _parse(
    path: Path,
    file: BinaryIO,
    *,
    mapped: bool,
    checked: bool,
    read_before: bool,
    limit: int | None,
) -> Parsed:
    file.seek(0)
    problem = wrong_kind(file.read(START))
    if problem:
        raise damaged(path, problem)
    # Before the mapping: what changes from now on is noticed.
    watch = guard(path, file) if mapped else None
    size = os.fstat(file.fileno()).st_size
    content: object
    if path.suffix == ".safetensors":
        content, metadata, count = read_safetensors(path, file, size, mapped=mapped, limit=limit)
        if is_copy(path):
            content = restore(content, metadata.get(DESCRIPTION, ""))
    else:
        content, count = read_torch(
            path, file, size, mapped=mapped, checked=checked, read_before=read_before, limit=limit
        )
    return Parsed(content, watch if count else None, count)
