"""ShuffleNetV2: the head is ``fc``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class ShuffleNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("shufflenet",)
    MODULE = "torchvision.models.shufflenetv2"
    HEAD = "fc"
    LEVELS = (">maxpool", "maxpool", "stage2", "stage3", "conv5")


plugin = ShuffleNet()
