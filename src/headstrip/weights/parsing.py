"""Read the content of an open weights file in any format, without executing anything in it."""

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
    short_reason,
    wrong_kind,
)
from headstrip.weights.records import is_copy
from headstrip.weights.safetensors_file import read_safetensors
from headstrip.weights.torch_file import ParseOptions, read_torch


@dataclass(frozen=True, slots=True)
class Parsed:
    """The content of a weights file.

    Attributes:
        content: The object in the file. Its tensors are on the CPU, each starts at a multiple of
            64 bytes, and writing to one never changes the file.
        guard: Notices that the file is rewritten in place, as long as its tensors are in use. None
            if no tensor is mapped.
        mapped_bytes: How many bytes of tensors are mapped.
    """

    content: object
    guard: Guard | None
    mapped_bytes: int


def parse(
    path: Path,
    file: BinaryIO,
    options: ParseOptions = ParseOptions(),  # noqa: B008  (a frozen value)
) -> Parsed:
    """Read an open weights file.

    Args:
        path: The path of the file, for messages. The suffix ``.safetensors`` means that format,
            any other suffix means a file of ``torch.save``.
        file: The open file. The caller may close it afterwards.
        options: How to read it.

    Raises:
        WeightsError: The file cannot be read or is damaged, memory ran out, or the file has more
            than tensors and plain values, or more bytes than ``options.limit``.
    """
    try:
        file.seek(0)
        if problem := wrong_kind(file.read(START)):
            raise damaged(path, problem)
        # The guard must exist before the mapping, so that it notices every later change.
        watch = guard(path, file) if options.mapped else None
        size = os.fstat(file.fileno()).st_size
        content: object
        if path.suffix == ".safetensors":
            content, metadata, mapped_bytes = read_safetensors(
                path, file, size, mapped=options.mapped, limit=options.limit
            )
            if is_copy(path):
                content = restore(content, metadata.get(DESCRIPTION, ""))
        else:
            content, mapped_bytes = read_torch(path, file, size, options)
    except WeightsError:
        raise
    # A damaged file causes errors of many types: UnpicklingError, RuntimeError, EOFError, KeyError
    # and more.
    except Exception as error:
        if is_of_the_disk(error):
            raise not_readable(path, error) from error
        if exhausted := explain_exhaustion(error, f"{path} cannot be read"):
            raise WeightsError(exhausted) from error
        raise damaged(path, short_reason(error)) from error
    return Parsed(content, watch if mapped_bytes else None, mapped_bytes)
