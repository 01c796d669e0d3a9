"""VGG: the head is ``classifier.6``, after a ReLU."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class VGG(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("vgg",)
    MODULE = "torchvision.models.vgg"
    HEAD = "classifier.6"


plugin = VGG()
