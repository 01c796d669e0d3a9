"""ResNet, ResNeXt and Wide ResNet: the head is ``fc``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class ResNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("resnet",)
    MODULE = "torchvision.models.resnet"
    HEAD = "fc"
    LEVELS = (">maxpool", "layer1", "layer2", "layer3", "layer4")


plugin = ResNet()
