"""Swin Transformer, versions 1 and 2: the head is ``head``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily
from headstrip.network.levels import Level


class Swin(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("swin",)
    MODULE = "torchvision.models.swin_transformer"
    HEAD = "head"
    LEVELS = (
        Level("features.1", layout="NHWC"),
        Level("features.3", layout="NHWC"),
        Level("features.5", layout="NHWC"),
        Level("norm", layout="NHWC", raw="features.7"),
    )


plugin = Swin()
