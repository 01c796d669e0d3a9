"""What was measured on this machine, kept in the cache so that the next run need not measure it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headstrip import bounded_json
from headstrip.atomic import write_atomically
from headstrip.embed.allocating import is_kept
from headstrip.embed.layouts import usable_cores
from headstrip.embed.plan import machine
from headstrip.weights.records import cache_home

if TYPE_CHECKING:
    from headstrip.encoder import Encoder

_FOLDER = "measured"
_LIBRARIES = ("headstrip", "torch", "openvino", "onnxruntime")


def situation(encoder: Encoder, identity: str) -> dict[str, Any]:
    """Return what a measurement depends on: the network, the machine, and what computes.

    Args:
        encoder: What embeds.
        identity: That of its fingerprint, which takes a while.
    """
    return {
        "identity": identity, "machine": machine(), "cores": usable_cores(),
        "device": _device(encoder), "versions": _versions(), "kept": is_kept(),
    }  # fmt: skip


def recall(of: Mapping[str, Any]) -> Any:
    """Return what was remembered of a situation; None where nothing was, or it cannot be read."""
    try:
        found = bounded_json.read(_file(of), "A measurement")
        return found["value"] if found["of"] == of else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(of: Mapping[str, Any], value: Any) -> None:
    """Remember plain JSON values of a situation; where the cache cannot be written to, nothing."""
    file = _file(of)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"of": of, "value": value}, sort_keys=True).encode())


def _file(of: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return cache_home() / _FOLDER / f"{digest[:32]}.json"


def _device(encoder: Encoder) -> str:
    place = encoder.place()[0]
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
