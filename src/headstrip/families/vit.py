"""Vision Transformer: the head is ``heads``, which may contain a pre-logits layer."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from headstrip.errors import PreprocessingError
from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.network.head import Stripped, detach, find
from headstrip.network.levels import Level
from headstrip.network.patches import Cut, describe
from headstrip.spec import BackboneSpec

# torchvision's files are older than its code: they have mlp.linear_1 where the module is mlp.0.
_OLD_LAYER = re.compile(r"\.mlp\.linear_([12])\.")


class ViT(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("vit",)
    MODULE = "torchvision.models.vision_transformer"
    INPUT_OPTIONS: ClassVar[Mapping[str, str]] = {"img_size": "image_size"}

    def weights_options(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the image size of the position embedding."""
        size = meta["min_size"][0]
        return {} if size == 224 else {"image_size": size}

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
        """Build the architecture, and refuse an image size that its patches do not divide."""
        size, patch = options.get("image_size"), int(spec.name.rpartition("_")[2])
        if isinstance(size, (tuple, list)):
            near = sorted({max(1, round(side / patch)) * patch for side in size})
            raise PreprocessingError(
                f"{spec.qualified_name} takes square images only, not {size[0]} x {size[1]}. "
                f"Choose {' or '.join(f'{side} x {side}' for side in near)}, or use timm's vit "
                "networks for other shapes."
            )
        if isinstance(size, int) and size > 0:
            cut = Cut((patch, patch), (patch, patch), (0, 0))
            if any(left := cut.left_out((size, size))):
                problem = describe(cut, (size, size), left)
                raise PreprocessingError(f"{spec.qualified_name} {problem}")
        model: nn.Module = super().build_model(spec, options)
        return model

    def strip(self, model: nn.Module) -> Stripped:
        """Take the head off a network of this family, in place."""
        find(model, "heads.head", nn.Linear)
        size = getattr(model, "image_size", None)
        shape = (3, size, size) if isinstance(size, int) else None
        return detach(model, "heads", kind=nn.Sequential, input_shape=shape)

    def levels_of(self, backbone: Any) -> Sequence[Level | str]:
        """Return the output of each block, the last one after the network's norm."""
        stride: int = backbone.patch_size
        paths = [f"encoder.layers.{name}" for name, _ in backbone.encoder.layers.named_children()]
        blocks = [Level(path, layout="NLC", prefix=1, stride=stride) for path in paths]
        return [*blocks[:-1], replace(blocks[-1], path="encoder.ln", raw=paths[-1])]

    def renamed(self, key: str) -> str:
        """Return the key of the network for a key of a weights file."""
        return _OLD_LAYER.sub(lambda old: f".mlp.{3 * (int(old[1]) - 1)}.", key)

    @hookimpl
    def resize_state_dict(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Interpolate the position embedding as torchvision does."""
        own: Any = model
        if "encoder.pos_embedding" not in state:
            # The tensor is missing, and headstrip raises the error that names it later.
            return state
        return dict(interpolate_embeddings(own.image_size, own.patch_size, OrderedDict(state)))


plugin = ViT()
