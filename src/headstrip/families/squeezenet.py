"""SqueezeNet: ``classifier`` is a convolution over the map, then ReLU, then the mean.

The logits cannot be computed from a pooled embedding, because of the ReLU. The embedding is the
spatial mean of ``features``, and the encoder has no head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from headstrip.families.chains import before_poolings
from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.network.head import Stripped, find
from headstrip.network.levels import Level


class SqueezeNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("squeezenet",)
    MODULE = "torchvision.models.squeezenet"

    def strip(self, model: nn.Module) -> Stripped:
        """Replace the classifier of a network by the mean, in place."""
        find(model, "features", nn.Sequential)
        find(model, "classifier.1", nn.Conv2d)
        model.set_submodule("classifier", nn.AdaptiveAvgPool2d(1))
        return Stripped(model, None, ("classifier",), "declared")

    def levels_of(self, backbone: Any) -> Sequence[Level | str]:
        """Return the input of each pooling, and the output of the last layer."""
        return before_poolings(backbone.features)

    @hookimpl
    def reference(self, model: nn.Module, x: Tensor, family: str) -> Tensor:
        """Compute the mean of the feature map."""
        features: Tensor = model.get_submodule("features")(x)
        return features.mean((2, 3))


plugin = SqueezeNet()
