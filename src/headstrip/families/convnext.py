"""ConvNeXt: the head is ``classifier[-1]``; its LayerNorm stays."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class ConvNeXt(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("convnext",)
    MODULE = "torchvision.models.convnext"
    HEAD = "classifier.2"


plugin = ConvNeXt()
