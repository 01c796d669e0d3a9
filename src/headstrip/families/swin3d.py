"""Video Swin Transformer: the head is ``head``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class Swin3D(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("swin3d",)
    MODULE = "torchvision.models.video.swin_transformer"
    HEAD = "head"
    TASK = "video"
    FRAMES = 32


plugin = Swin3D()
