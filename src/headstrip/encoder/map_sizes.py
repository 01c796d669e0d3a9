"""The feature maps of a network: its levels, and the channels and stride of each."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from headstrip.errors import LevelError
from headstrip.network.dtypes import computing_dtype
from headstrip.network.levels import Level, as_levels
from headstrip.network.meta_ops import ByShape, twin
from headstrip.network.taps import ChosenMaps, TappedMaps
from headstrip.network.width import tensors_within
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec

_GROWTH = 896
"""Pixels by which the image grows to measure strides: a multiple of the strides in use."""


@dataclass(frozen=True, slots=True)
class MapSize:
    """The size of a feature map that does not depend on the image.

    Attributes:
        channels: Number of its channels.
        stride: Pixels between two neighbouring cells.
    """

    channels: int
    stride: int


def stated_levels(
    backbone: nn.Module, spec: BackboneSpec, registry: Registry | None = None
) -> tuple[Level, ...] | nn.Module:
    """Return the levels that the plugin of a backbone's family states.

    Args:
        backbone: The stripped network.
        spec: The backbone.
        registry: The registry with its plugins, by default that of this process.

    Raises:
        LevelError: It has no feature maps.
    """
    if spec.task != "image":
        raise LevelError(
            f"{spec.qualified_name} takes video, and only encoders of images have feature maps. "
            "`headstrip list --task image` lists those."
        )
    plugin, family = (registry or get_registry()).stripper(spec.family)
    found = plugin.call("levels", spec.qualified_name, model=backbone, family=family, spec=spec)
    if isinstance(found, nn.Module):
        return found
    if not found:
        raise LevelError(
            f"{spec.qualified_name} has no feature maps: the plugin {plugin.label} states no "
            f"levels for it. Use the embedding, or add the hook levels to the plugin."
        )
    levels = as_levels(found)
    if repeated := [one.path for one in levels if levels.count(one) > 1]:
        raise LevelError(
            f"{spec.qualified_name} has no feature maps: the plugin {plugin.label} states the "
            f"level {repeated[0]!r} twice. Report it to the author of the plugin."
        )
    return levels


Makeup: TypeAlias = list[tuple[Any, ...]]
"""The ids of the modules of a network, and the values that decide on the size of their outputs."""

_SIZING = ("stride", "kernel_size", "padding", "dilation", "ceil_mode", "output_size")


def makeup_of(network: nn.Module) -> Makeup:
    """Return a value that changes when somebody adds, removes or changes a layer."""
    return [
        (id(module), id(module._parameters.get("weight")), *map(module.__dict__.get, _SIZING))
        for module in network.modules()
    ]


def measure_map_sizes(
    backbone: nn.Module,
    spec: BackboneSpec,
    shape: tuple[int, ...],
    device: torch.device,
    registry: Registry | None = None,
) -> tuple[MapSize, ...]:
    """Measure the channels and strides of the maps of a backbone.

    headstrip runs a copy on the meta device at two image sizes. If that fails, it runs a copy with
    values at one size.

    Args:
        backbone: The stripped network, which does not change.
        spec: The backbone.
        shape: Its input without the batch axis.
        device: The device of its tensors, which may be meta.
        registry: The registry with its plugins, by default that of this process.

    Returns:
        The size of each map, the finest first.

    Raises:
        LevelError: It has no feature maps.
    """

    def shapes(network: nn.Module, size: tuple[int, ...], place: torch.device) -> Shapes:
        stated = stated_levels(network, spec, registry)
        module = (
            ChosenMaps(stated, None, True)
            if isinstance(stated, nn.Module)
            else TappedMaps(network, stated)
        )
        x = torch.zeros((1, *size), dtype=computing_dtype(network), device=place)
        with torch.no_grad():
            _, maps, _ = module(x)
        return [(found.shape[1], found.shape[2]) for found in maps]

    meta = torch.device("meta")
    # The copy shares no container with the backbone, which another thread may be running.
    light = copy.deepcopy(backbone, {id(one): _light(one) for one in tensors_within(backbone)})
    try:
        with ByShape():
            small = shapes(light.eval(), shape, meta)
    except LevelError:
        raise
    except Exception:
        # Networks fail on meta for many reasons. A forward pass with values then gives the sizes.
        if device.type == "meta":
            raise
        real = copy.deepcopy(backbone).eval()
        only = shapes(real, shape, device)
        return _sized(only, only, shape[1])
    grown = (shape[0], shape[1] + _GROWTH, shape[2] + _GROWTH)
    try:
        with ByShape():
            large = shapes(light, grown, meta)
    except Exception:
        # The network takes one image size only.
        large = small
    return _sized(small, large, shape[1])


Shapes = list[tuple[int, int]]
"""Channels and height of every map for one image."""


def _light(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape without memory."""
    found = twin(tensor)
    return nn.Parameter(found, requires_grad=False) if isinstance(tensor, nn.Parameter) else found


def _sized(small: Shapes, large: Shapes, side: int) -> tuple[MapSize, ...]:
    """Return the sizes of maps.

    Args:
        small: The maps of the smaller image.
        large: The maps of the larger image; equal to ``small`` for a network of one size.
        side: Height of the smaller image.
    """
    sizes: list[MapSize] = []
    for (channels, height), (_, higher) in zip(small, large, strict=True):
        # Networks without padding lose cells at the border, so image size / map size is too large.
        # The difference between two sizes has no border.
        cells = higher - height
        finer = sizes[-1].stride if sizes else None
        stride = round(_GROWTH / cells) if cells else _stride_of(height, side, finer)
        sizes.append(MapSize(channels, stride))
    return tuple(sizes)


def _stride_of(cells: int, side: int, finer: int | None) -> int:
    """Return the stride of a map of a network that takes one size.

    LeViT has a map of 7 cells with the stride 32. It keeps every second cell, which makes 4 cells
    with the stride 64, and not 224 / 4 = 56.

    Args:
        cells: Rows of the map.
        side: Height of the image.
        finer: Stride of the map before it, of which this one is a multiple; None for the first.
    """
    quotient = round(side / cells)
    if finer is None or (side % cells == 0 and quotient % finer == 0):
        return quotient
    multiples = range(finer, 2 * quotient, finer)
    fitting = (one for one in multiples if cells in (side // one, -(-side // one)))
    return next(fitting, quotient)
