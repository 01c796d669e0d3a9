"""MNASNet: the head is ``classifier.1``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class MNASNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("mnasnet",)
    MODULE = "torchvision.models.mnasnet"
    HEAD = "classifier.1"
    LEVELS = ("layers.7", "layers.8", "layers.9", "layers.11", "layers.16")


plugin = MNASNet()
