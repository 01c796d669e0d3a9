"""GoogLeNet: the head is ``fc``; the auxiliary heads come off with it."""

from __future__ import annotations

from headstrip.families.auxiliary import AuxiliaryFamily


class GoogLeNet(AuxiliaryFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("googlenet",)
    MODULE = "torchvision.models.googlenet"
    HEAD = "fc"
    AUXILIARY = ("aux1", "aux2")
    LEVELS = (">maxpool1", ">maxpool2", ">maxpool3", ">maxpool4", "inception5b")


plugin = GoogLeNet()
