"""MobileNetV2: the head is ``classifier.1``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class MobileNetV2(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("mobilenet_v2",)
    MODULE = "torchvision.models.mobilenetv2"
    HEAD = "classifier.1"


plugin = MobileNetV2()
