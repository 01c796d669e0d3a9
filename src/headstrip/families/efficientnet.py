"""EfficientNet and EfficientNetV2: the head is ``classifier.1``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class EfficientNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("efficientnet",)
    MODULE = "torchvision.models.efficientnet"
    HEAD = "classifier.1"


plugin = EfficientNet()
