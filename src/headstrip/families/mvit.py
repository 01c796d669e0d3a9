"""MViT: the head is ``head.1``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class MViT(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("mvit",)
    MODULE = "torchvision.models.video.mvit"
    HEAD = "head.1"
    TASK = "video"


plugin = MViT()
