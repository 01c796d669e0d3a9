"""What a backbone shows when it is built: the live side of a catalog's claims."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from headstrip.encoder.bounds import MOST_PARAMETERS, bounded_network
from headstrip.errors import HeadstripError, ManifestError
from headstrip.factory.build import build_network, embedding_width
from headstrip.factory.construction import strip_with
from headstrip.network.head_check import logits_without_memory
from headstrip.network.meta_ops import without_memory
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec


def completed(spec: BackboneSpec, registry: Registry) -> BackboneSpec:
    """Fill in what a plugin left out of a backbone that no catalog lists.

    That is the width and the number of parameters where they are 0, with the law, which are then
    measured, and the default weights where they are None: the first that ``weights`` lists.

    Raises:
        HeadstripError: It cannot be built or stripped.
    """
    if registry.is_in_catalog(spec):
        return spec
    if spec.default_weights is None:
        entries = registry.weights(spec)
        spec = replace(spec, default_weights=entries[0].tag if entries else None)
    if spec.dim and spec.params:
        return spec
    # What the plugin does state is a claim, and stays one.
    seen = measure(spec, registry=registry)
    return replace(seen, dim=spec.dim or seen.dim, params=spec.params or seen.params)


def measure(
    spec: BackboneSpec,
    options: Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
) -> BackboneSpec:
    """Build a backbone without its weights, strip it, and write down what it shows.

    It is built on the meta device, where it takes no memory, and for real where its constructor
    computes with tensors. The global random number generators do not move.

    Args:
        spec: Which backbone; what it claims does not matter.
        options: Constructor arguments over those of the spec and of its default weights.
        registry: Where its plugins are, by default those of this process.

    Returns:
        ``spec`` with ``input_shape``, ``dim``, ``params`` (the head's included) and ``law`` as
        they are seen.

    Raises:
        HeadstripError: It cannot be built or stripped, is no encoder then, or is larger than any
            network.
    """
    registry = registry or get_registry()
    try:
        return _measured(registry, spec, options, light=True)
    except ManifestError:
        raise
    except HeadstripError:
        with torch.random.fork_rng(devices=[]):
            return _measured(registry, spec, options, light=False)


def _measured(
    registry: Registry,
    spec: BackboneSpec,
    options: Mapping[str, Any] | None,
    *,
    light: bool,
) -> BackboneSpec:
    about = spec.qualified_name
    plugin, family = registry.stripper(spec.family)
    entries = registry.weights(spec) if spec.default_weights else ()
    entry = next((entry for entry in entries if entry.tag == spec.default_weights), None)
    merged = {
        **dict(spec.options), **dict(entry.options if entry else ()), **(options or {})
    }  # fmt: skip
    bounded = bounded_network(
        MOST_PARAMETERS, f"The configuration of {about}", "Compare it with the library's own."
    )
    with bounded, without_memory() if light else nullcontext():
        model = build_network(spec, merged, registry)
    params = sum(parameter.numel() for parameter in model.parameters())
    stripped = strip_with(plugin, family, model.eval(), spec, entry, about)
    shape = stripped.input_shape or (entry and entry.input_shape) or spec.input_shape

    def untouched() -> tuple[int, ...] | None:
        return logits_without_memory(lambda: build_network(spec, merged, registry), shape)

    # What is measured is the network at its own size.
    own = replace(spec, input_shape=shape)
    dim = embedding_width(stripped, own, shape, untouched, registry=registry)
    return replace(spec, input_shape=shape, dim=dim, params=params, law=stripped.law)
