"""AlexNet: the head is ``classifier.6``, after a ReLU."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class AlexNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("alexnet",)
    MODULE = "torchvision.models.alexnet"
    HEAD = "classifier.6"


plugin = AlexNet()
