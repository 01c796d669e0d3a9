"""SqueezeNet: ``classifier`` is a convolution over the map, then ReLU, then the mean.

The logits are no function of a pooled embedding: the ReLU stands between. The embedding is the
spatial mean of ``features``, and there is no head to keep.
"""

from __future__ import annotations

from torch import Tensor, nn

from headstrip.families.family import TorchvisionFamily
from headstrip.hookspecs import hookimpl
from headstrip.network.head import Stripped, find


class SqueezeNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("squeezenet",)
    MODULE = "torchvision.models.squeezenet"

    def strip(self, model: nn.Module) -> Stripped:
        """Leave the mean in the place of the classifier."""
        find(model, "features", nn.Sequential)
        find(model, "classifier.1", nn.Conv2d)
        model.set_submodule("classifier", nn.AdaptiveAvgPool2d(1))
        return Stripped(model, None, ("classifier",), "declared")

    @hookimpl
    def reference(self, model: nn.Module, x: Tensor, family: str) -> Tensor:
        """Compute the mean of the feature map by hand."""
        features: Tensor = model.get_submodule("features")(x)
        return features.mean((2, 3))


plugin = SqueezeNet()
