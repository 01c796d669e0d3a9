"""MaxViT: the head is ``classifier.5``; the norm and the tanh layer before it stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.network.head import Stripped, detach
from headstrip.spec import BackboneSpec


class MaxViT(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("maxvit",)
    MODULE = "torchvision.models.maxvit"
    INPUT_OPTIONS: ClassVar[Mapping[str, str]] = {"img_size": "input_size"}
    LEVELS = ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3")

    def weights_options(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the input size that the partitions are made for."""
        size = tuple(meta["min_size"])
        return {} if size == (224, 224) else {"input_size": size}

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
        """Build by name; torchvision takes the size as a pair only."""
        size = options.get("input_size")
        pair = {"input_size": (size, size)} if isinstance(size, int) else {}
        model: nn.Module = super().build_model(spec, {**options, **pair})
        return model

    def strip(self, model: nn.Module) -> Stripped:
        """Take the head off a network of this family, in place."""
        return detach(model, "classifier.5", input_shape=_input_shape(model))


def _input_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Compute the input size from the last block's grid: the stem and each block halve it."""
    blocks = getattr(model, "blocks", None)
    if not blocks:
        return None
    height, width = blocks[-1].grid_size
    scale = 2 ** (len(blocks) + 1)
    return (3, height * scale, width * scale)


plugin = MaxViT()
