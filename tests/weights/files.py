"""Helpers that write, read and serve weights files in three formats."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from headstrip.weights.parsing import Parsed, parse
from headstrip.weights.torch_file import ParseOptions

State = dict[str, Tensor]


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_zip(content: object, path: Path) -> Path:
    torch.save(content, f"{path}.pth")
    return Path(f"{path}.pth")


def save_legacy(content: object, path: Path) -> Path:
    torch.save(content, f"{path}.pth", _use_new_zipfile_serialization=False)
    return Path(f"{path}.pth")


def save_safetensors(content: State, path: Path) -> Path:
    save_file({key: value.contiguous() for key, value in content.items()}, f"{path}.safetensors")
    return Path(f"{path}.safetensors")


def contents(
    path: Path,
    *,
    mapped: bool = False,
    checked: bool = False,
    read_before: bool = False,
    limit: int | None = None,
) -> Parsed:
    """Parse a weights file and return its content."""
    with open(path, "rb") as file:
        return parse(path, file, ParseOptions(mapped, checked, read_before, limit))


def write_safetensors(path: Path, header: bytes, data: bytes = b"") -> Path:
    """Write a safetensors file from a raw header and raw data."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def identical(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits, including NaN."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and bool(torch.equal(raw(one), raw(other)))
    )


def raw(tensor: Tensor) -> Tensor:
    # PyTorch treats a tensor with one element as contiguous, whatever its strides.
    flat = tensor.detach().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8)


class Canary:
    """An object that creates a folder when pickle loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


SAVERS = {"zip": save_zip, "legacy": save_legacy, "safetensors": save_safetensors}


def state_of(name: str, **options: object) -> State:
    state: State = models.get_model(name, weights=None, **options).state_dict()
    for value in state.values():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5)
    return state


@dataclass
class Server:
    """An HTTP server on this machine: its files by path, and the requests that it received."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_short: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
