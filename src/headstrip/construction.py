"""From a name to a network with its weights in and its head off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from headstrip.building import Builder as Builder
from headstrip.building import Mechanism
from headstrip.building import Wish as Wish
from headstrip.building import strip_with as strip_with
from headstrip.registry import get_registry
from headstrip.selection import Selection, WeightsArgument, select_weights
from headstrip.spec import BackboneSpec
from headstrip.surgery import Stripped
from headstrip.weights.mapping import Guard

_NOTHING_BESIDES = Wish()
_RESERVED_OPTIONS = {
    "num_classes": "predictors={'name': classes} for classes of your own",
    "weights": "weights= to build_encoder itself",
    "pretrained": "weights= to build_encoder itself",
    # timm's: it would read the file past headstrip.
    "checkpoint_path": "weights= to build_encoder itself",
}


@dataclass(frozen=True, slots=True)
class Built:
    """A network without its head, and what it was built from.

    Attributes:
        stripped: Its parts.
        spec: The backbone.
        selection: Its weights.
        options: Constructor arguments of the network.
        input_shape: Input without the batch axis.
        sha256: Hash of the weights file, None without one.
        mechanism: How it was built: ``hollow`` where no parameter had memory before the file's,
            ``ordinary`` where all were initialised.
        guards: What notices that a mapped weights file is rewritten in place.
    """

    stripped: Stripped
    spec: BackboneSpec
    selection: Selection
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    sha256: str | None
    mechanism: Mechanism = "ordinary"
    guards: tuple[Guard, ...] = ()


def build_stripped(
    name: str,
    *,
    weights: WeightsArgument = "DEFAULT",
    options: Mapping[str, Any] | None = None,
    wish: Wish = _NOTHING_BESIDES,
) -> Built:
    """Build a network, put its weights in, and take its head off; see ``build_encoder``."""
    _check_options(options)
    registry = get_registry()
    spec, parts = registry.resolve(name)
    selection = select_weights(registry, spec, parts, weights)
    entry = selection.entry
    merged = {
        **dict(spec.options), **dict(entry.options if entry else ()), **(options or {})
    }  # fmt: skip
    builder = Builder(registry.owner(spec), registry.stripper(spec.family), spec, selection, wish)
    # Tensors made in inference mode could never train.
    with torch.inference_mode(False):
        stripped, file, mechanism = builder.build(merged)
    shape = stripped.input_shape or (entry and entry.input_shape) or spec.input_shape
    sha256, guards = (file.sha256, file.guards) if file else (None, ())
    return Built(stripped, spec, selection, merged, shape, sha256, mechanism, guards)


def _check_options(options: object) -> None:
    """Refuse what is no mapping of constructor arguments, and those that are headstrip's."""
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(
            f"options={options!r} is a {type(options).__name__}. "
            "Pass a mapping of constructor arguments, such as {'image_size': 384}."
        )
    for name, instead in _RESERVED_OPTIONS.items():
        if name in (options or {}):
            raise ValueError(
                f"options has {name}={dict(options or {})[name]!r}, which headstrip sets itself. "
                f"Pass {instead}."
            )
