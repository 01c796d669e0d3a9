"""Swin Transformer, versions 1 and 2: the head is ``head``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class Swin(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("swin",)
    MODULE = "torchvision.models.swin_transformer"
    HEAD = "head"


plugin = Swin()
