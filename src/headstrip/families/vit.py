"""Vision Transformer: the head is ``heads``, a pre-logits layer included where there is one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from headstrip.errors import PreprocessingError
from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.network.head import Stripped, detach, find
from headstrip.network.patches import Cut, described
from headstrip.network.state_dicts import plain_state_dict
from headstrip.spec import BackboneSpec, WeightsEntry

# torchvision's files are older than its code: they name the layers that are numbered now.
_OLD_LAYER = re.compile(r"\.mlp\.linear_([12])\.")


class ViT(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("vit",)
    MODULE = "torchvision.models.vision_transformer"

    def weights_options(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for the image size of the position embedding."""
        size = meta["min_size"][0]
        return {} if size == 224 else {"image_size": size}

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
        """Build the architecture, and refuse an image size that its patches do not divide."""
        size, patch = options.get("image_size"), int(spec.name.rpartition("_")[2])
        if isinstance(size, int) and size > 0:
            cut = Cut((patch, patch), (patch, patch), (0, 0))
            if any(left := cut.left_out((size, size))):
                problem = described(cut, (size, size), left)
                raise PreprocessingError(f"{spec.qualified_name} {problem}")
        model: nn.Module = super().build_model(spec, options)
        return model

    def strip(self, model: nn.Module) -> Stripped:
        """Take the head off."""
        find(model, "heads.head", nn.Linear)
        size = getattr(model, "image_size", None)
        shape = (3, size, size) if isinstance(size, int) else None
        return detach(model, "heads", kind=nn.Sequential, input_shape=shape)

    @hookimpl
    def adapt_state_dict(
        self, loaded: object, model: nn.Module, entry: WeightsEntry | None
    ) -> dict[str, Tensor]:
        """Take the file with the old names renamed."""
        state = plain_state_dict(loaded)
        return {_OLD_LAYER.sub(_numbered, key): value for key, value in state.items()}


def _numbered(old: re.Match[str]) -> str:
    return f".mlp.{3 * (int(old[1]) - 1)}."


plugin = ViT()
