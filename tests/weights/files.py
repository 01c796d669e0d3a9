"""The forms that weights come in: files of three formats, and a server that has some."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

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


SAVERS = {"zip": save_zip, "legacy": save_legacy, "safetensors": save_safetensors}


def state_of(name: str, **options: object) -> State:
    state: State = models.get_model(name, weights=None, **options).state_dict()
    for value in state.values():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5)
    return state


@dataclass
class Server:
    """An HTTP server on this machine: what it serves by path, and what it was asked for."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_short: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
