"""Files converted once into a form that is mapped as it stands.

A mapped tensor can be used in place if it starts at a multiple of 64 bytes, which files of
safetensors do not promise, and files of the format before torch 1.6 cannot be mapped at all. The
converted file is one of safetensors, in headstrip's cache under the sha256 of its source.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from headstrip._version import __version__
from headstrip.errors import WeightsError, one_line
from headstrip.network.assigning import ALIGNMENT
from headstrip.system.atomic import remove_leftovers, sync_folder, written_beside
from headstrip.weights.description import DESCRIPTION, PAD, take_apart
from headstrip.weights.mapping import Guard, guard
from headstrip.weights.parsing import parse
from headstrip.weights.problems import not_readable
from headstrip.weights.records import find_copy, path_of_copy, remember
from headstrip.weights.safetensors_file import DTYPES
from headstrip.weights.trust import hash_of

_MOST_LARGER = 16


def optimize(path: Path) -> Path:
    """Convert a weights file, unless that was done before.

    Everything that it holds comes back the same from the converted file: tensors bit for bit, those
    that are one tensor under two names too, versions of modules, and the other content of a
    checkpoint. Its tensors are contiguous, whatever their strides were.

    Returns:
        The converted file.

    Raises:
        WeightsError: The file is not a weights file, holds something that cannot be converted, or
            the disk has no room for the converted one.
    """
    try:
        with open(path, "rb") as file:
            watch = guard(path, file)
            sha256 = hash_of(file)
            if (found := find_copy(sha256)) is not None:
                return found
            content = parse(path, file, mapped=False, checked=False).content
    except OSError as error:
        raise not_readable(path, error) from error
    tensors, description = _taken_apart(path, content)
    return _write(sha256, tensors, description, watch)


def _taken_apart(path: Path, content: object) -> tuple[dict[str, Tensor], str]:
    try:
        tensors, description = take_apart(content)
    except (TypeError, RecursionError) as error:
        raise WeightsError(
            f"{path} cannot be converted: it holds {one_line(error)[:200]}. Save its state dict "
            "alone, and convert that."
        ) from None
    size, held = path.stat().st_size, sum(tensor.nbytes for tensor in tensors.values())
    if held > _MOST_LARGER * size:
        raise WeightsError(
            f"{path} cannot be converted: its {size} bytes would be {held}, as its tensors repeat "
            "what they hold. Save a plain state dict, and convert that."
        )
    return tensors, description


def _write(sha256: str, tensors: dict[str, Tensor], description: str, watch: Guard) -> Path:
    """Write the converted file beside its name, rename it, and record its own hash."""
    target = path_of_copy(sha256)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        with written_beside(target) as file:
            digest = _write_safetensors(file, sha256, tensors, description)
            file.flush()
            os.fsync(file.fileno())
            watch.check()
        sync_folder(target.parent)
        stat = os.stat(target)
    except OSError as error:
        raise WeightsError(
            f"The converted file {target} cannot be written ({one_line(error)}). Make room, or "
            "set HEADSTRIP_CACHE to a folder that can be written to."
        ) from error
    remember(target, stat, digest, origin="optimized")
    return target


def _write_safetensors(
    file: BinaryIO, sha256: str, tensors: dict[str, Tensor], description: str
) -> str:
    """Write the tensors, each at a multiple of 64 bytes, and return the sha256 of it all."""
    header = _header(sha256, tensors, description)
    digest = hashlib.sha256()
    for part in (len(header).to_bytes(8, "little"), header, *_parts(tensors)):
        digest.update(part)
        file.write(part)
    return digest.hexdigest()


def _header(sha256: str, tensors: dict[str, Tensor], description: str) -> bytes:
    names = {dtype: name for name, dtype in DTYPES.items()}
    metadata = {
        "source_sha256": sha256,
        "headstrip": __version__,
        DESCRIPTION: description,
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.nbytes
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end + -end % ALIGNMENT
        if position != end:
            # The format allows no holes.
            header[f"{PAD}{len(header)}"] = {
                "dtype": "U8",
                "shape": [position - end],
                "data_offsets": [end, position],
            }
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-(len(text) + 8) % ALIGNMENT)


def _parts(tensors: dict[str, Tensor]) -> Iterator[memoryview | bytes]:
    for tensor in tensors.values():
        if not tensor.numel():
            continue
        data = tensor.resolve_conj().resolve_neg().contiguous()
        # One element may have any strides and count as contiguous.
        data = data.as_strided((data.numel(),), (1,))
        yield data.view(torch.uint8).numpy().data
        yield bytes(-tensor.nbytes % ALIGNMENT)
