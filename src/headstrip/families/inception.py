"""Inception v3: the head is ``fc``; the auxiliary heads come off with it."""

from __future__ import annotations

from headstrip.families.auxiliary import AuxiliaryFamily


class Inception(AuxiliaryFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("inception",)
    MODULE = "torchvision.models.inception"
    HEAD = "fc"
    AUXILIARY = ("AuxLogits",)
    LEVELS = (">maxpool1", ">maxpool2", "Mixed_5d", "Mixed_6e", "Mixed_7c")


plugin = Inception()
