"""MobileNetV3: the head is ``classifier.3``; the layer before it stays."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class MobileNetV3(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("mobilenet_v3",)
    MODULE = "torchvision.models.mobilenetv3"
    HEAD = "classifier.3"


plugin = MobileNetV3()
