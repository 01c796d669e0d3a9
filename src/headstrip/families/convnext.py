"""ConvNeXt: the head is ``classifier.2``; the LayerNorm before it stays."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class ConvNeXt(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("convnext",)
    MODULE = "torchvision.models.convnext"
    HEAD = "classifier.2"
    LEVELS = ("features.1", "features.3", "features.5", "features.7")


plugin = ConvNeXt()
