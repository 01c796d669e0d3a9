"""Vision Transformer: the head is ``heads``, a pre-logits layer included where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.surgery import Stripped, detach, find


class ViT(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("vit",)
    MODULE = "torchvision.models.vision_transformer"

    def weights_options(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for the image size of the position embedding."""
        size = meta["min_size"][0]
        return {} if size == 224 else {"image_size": size}

    @hookimpl
    def strip_head(
        self, model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
    ) -> Stripped:
        """Take the head off."""
        find(model, "heads.head", nn.Linear)
        size = getattr(model, "image_size", None)
        shape = (3, size, size) if isinstance(size, int) else None
        return detach(model, "heads", kind=nn.Sequential, input_shape=shape)


plugin = ViT()
