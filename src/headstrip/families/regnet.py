"""RegNet: the head is ``fc``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class RegNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("regnet",)
    MODULE = "torchvision.models.regnet"
    HEAD = "fc"
    LEVELS = ("stem", *(f"trunk_output.block{stage}" for stage in (1, 2, 3, 4)))


plugin = RegNet()
