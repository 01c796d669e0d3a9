"""Measure backbones: the width of a built network, and everything that a catalog claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from headstrip.encoder.bounds import MAX_PARAMETERS, bounded_network
from headstrip.encoder.map_sizes import measure_map_sizes
from headstrip.errors import (
    HeadstripError,
    LevelError,
    ManifestError,
    PluginError,
    PreprocessingError,
    one_line,
)
from headstrip.factory.construction import Built
from headstrip.factory.image_sizes import SizeTrial, accepted_sizes, refusal_of
from headstrip.factory.maker import strip_with
from headstrip.network.head import Stripped
from headstrip.network.head_check import logits_without_memory, width_of_stripped
from headstrip.network.meta_ops import without_memory
from headstrip.network.patches import PatchWatch, unseen
from headstrip.network.width import BATCH, HeadError, ProbeError, run_once
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec, WeightsEntry, effective_shape, merged_options


def completed(spec: BackboneSpec, registry: Registry) -> BackboneSpec:
    """Fill in what a plugin left out of a backbone that no catalog lists.

    headstrip measures the width, the number of parameters and the head fidelity if one of the
    numbers is 0. If the default weights are None, they become the first that the hook ``weights``
    lists.

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
    # The plugin's own numbers are kept: they are claims, which a build checks.
    seen = measure(spec, registry=registry)
    return replace(seen, dim=spec.dim or seen.dim, params=spec.params or seen.params)


def measure(
    spec: BackboneSpec,
    options: Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
    sizes: bool = False,
    maps: bool = False,
) -> BackboneSpec:
    """Build a backbone without its weights, take its head off, and measure the result.

    headstrip builds it on the meta device, where it takes no memory, or in memory if its
    constructor computes with tensors. The global random number generators do not change.

    Args:
        spec: The backbone; its claims do not matter.
        options: Constructor arguments, which replace those of the spec and its default weights.
        registry: The registry with its plugins, by default that of this process.
        sizes: Whether to find out which image sizes it accepts, with up to four more builds.
        maps: Whether to measure its feature maps.

    Returns:
        ``spec`` with the measured ``input_shape``, ``dim``, ``params`` (with the head's), ``law``
        and, if you asked for them, ``sizes``, ``channels`` and ``strides``.

    Raises:
        HeadstripError: It cannot be built or stripped, does not work as an encoder, or is larger
            than any network.
    """
    registry = registry or get_registry()
    try:
        return _measured(registry, spec, options, light=True, sizes=sizes, maps=maps)
    except ManifestError:
        raise
    except HeadstripError:
        with torch.random.fork_rng(devices=[]):
            return _measured(registry, spec, options, light=False, sizes=sizes, maps=maps)


def _measured(
    registry: Registry,
    spec: BackboneSpec,
    options: Mapping[str, Any] | None,
    *,
    light: bool,
    sizes: bool,
    maps: bool,
) -> BackboneSpec:
    about = spec.qualified_name
    plugin, family = registry.stripper(spec.family)
    entries = registry.weights(spec) if spec.default_weights else ()
    entry = next((entry for entry in entries if entry.tag == spec.default_weights), None)
    merged = merged_options(spec, entry, options)
    bounded = bounded_network(MAX_PARAMETERS, f"The configuration of {about}", "Correct its sizes.")
    with bounded, without_memory() if light else nullcontext():
        model = build_network(spec, merged, registry)
    params = sum(parameter.numel() for parameter in model.parameters())
    stripped = strip_with(plugin, family, model.eval(), spec, entry, about)
    shape = effective_shape(stripped.input_shape, entry, spec)

    def untouched() -> tuple[int, ...] | None:
        return logits_without_memory(lambda: build_network(spec, merged, registry), shape)

    # The network is measured at its default size.
    own = replace(spec, input_shape=shape)
    dim = embedding_width(stripped, own, shape, untouched, registry=registry)
    found = replace(spec, input_shape=shape, dim=dim, params=params, law=stripped.law)
    if maps:
        found = _with_maps(found, stripped.backbone, registry)
    if not sizes or spec.task != "image":
        return found

    def accepts(size: tuple[int, int]) -> bool:
        if light:
            return trial.options_for(size)[0] is not None
        # The network is in memory, where a second one may not fit.
        return refusal_of(stripped.backbone, (shape[0], *size), run_once) is None

    trial = SizeTrial(registry.owner(spec), found, entry, options or {})
    return replace(found, sizes=accepted_sizes(accepts, (shape[1], shape[2])))


def _with_maps(spec: BackboneSpec, backbone: nn.Module, registry: Registry) -> BackboneSpec:
    """Return a spec with the channels and strides of a network's feature maps."""
    device = next((one.device for one in backbone.parameters()), torch.device("cpu"))
    try:
        sizes = measure_map_sizes(backbone, spec, spec.input_shape, device, registry)
    except LevelError:
        sizes = ()
    except Exception as error:
        # Networks fail on meta for many reasons. `measure` then builds them in memory.
        raise PluginError(
            f"The feature maps of {spec.qualified_name} cannot be read: {one_line(error)}. Report "
            "it to the author of its plugin."
        ) from error
    channels = tuple(size.channels for size in sizes)
    return replace(spec, channels=channels, strides=tuple(size.stride for size in sizes))


def width_of_built(built: Built, shape: tuple[int, ...], *, given: bool = False) -> int:
    """Return the width of a network that was built; see ``embedding_width``."""
    entry, path = built.selection.entry, built.selection.path

    def untouched() -> tuple[int, ...] | None:
        if path is not None:
            # The file may have another number of classes.
            return None
        if entry is not None and entry.num_classes is not None:
            return (BATCH, entry.num_classes)
        return logits_without_memory(lambda: build_network(built.spec, built.options), shape)

    return embedding_width(built.stripped, built.spec, shape, untouched, given=given, entry=entry)


def build_network(
    spec: BackboneSpec, options: Mapping[str, Any], registry: Registry | None = None
) -> nn.Module:
    """Call the owner of a backbone to build it, head included."""
    owner = (registry or get_registry()).owner(spec)
    about = spec.qualified_name
    model: nn.Module = owner.call("build_model", about, spec=spec, options=dict(options))
    return model


def embedding_width(
    stripped: Stripped,
    spec: BackboneSpec,
    shape: tuple[int, ...],
    untouched: Callable[[], tuple[int, ...] | None],
    *,
    given: bool = False,
    entry: WeightsEntry | None = None,
    registry: Registry | None = None,
) -> int:
    """Return the width of a backbone, and check that its head gives the network's logits.

    Args:
        stripped: The network's parts.
        spec: The backbone.
        shape: Its input without the batch axis.
        untouched: See ``width_of_stripped``.
        given: Whether the user chose the shape.
        entry: The weights, whose input size is never refused.
        registry: The registry with its plugins, by default that of this process.

    Raises:
        PluginError: The stripped network does not work, or ``strip_head`` took the wrong layer.
        PreprocessingError: The network does not accept the ``shape`` that the user chose; or its
            patches do not divide a shape that is not its default, so that it ignores pixels.
    """
    watch = PatchWatch(shape)
    try:
        width = width_of_stripped(stripped, shape, untouched, watch)
    except ProbeError as error:
        watch.look_at(stripped.backbone)
        if (problem := _left_out(watch, spec, shape, entry)) is not None:
            raise PreprocessingError(f"{spec.qualified_name} {problem}") from error
        if given:
            raise PreprocessingError(
                f"{spec.qualified_name} does not accept {shape}, which the preprocessing gives: it "
                f"{error}. Pass the options for this size, or another preprocessing."
            ) from error
        plugin, _ = (registry or get_registry()).stripper(spec.family)
        raise PluginError(
            f"{spec.qualified_name} does not work as an encoder after strip_head of the plugin "
            f"{plugin.label}: it {error}. Report it to the plugin's author."
        ) from error
    except HeadError as error:
        plugin, _ = (registry or get_registry()).stripper(spec.family)
        raise PluginError(
            f"strip_head of the plugin {plugin.label} takes the wrong layer of "
            f"{spec.qualified_name} for its head: the head {error}. Report it to the plugin's "
            "author: strip_head must name the layer that gives the logits."
        ) from error
    if (problem := _left_out(watch, spec, shape, entry)) is not None:
        raise PreprocessingError(f"{spec.qualified_name} {problem}")
    return width


def _left_out(
    watch: PatchWatch, spec: BackboneSpec, shape: tuple[int, ...], entry: WeightsEntry | None
) -> str | None:
    """Describe what a network ignores of its input at a size that the user set; else None.

    Two of timm's SigLIP networks were trained at 384 pixels with patches of 14. At that size they
    ignore the same pixels as in training.
    """
    own = (spec.input_shape, entry.input_shape if entry else None)
    return None if shape in own else unseen(watch, shape)
