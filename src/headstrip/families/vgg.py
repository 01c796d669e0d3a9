"""VGG: the head is ``classifier.6``, after a ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstrip.families.chains import before_poolings
from headstrip.families.family import TorchvisionFamily
from headstrip.network.levels import Level


class VGG(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("vgg",)
    MODULE = "torchvision.models.vgg"
    HEAD = "classifier.6"

    def levels_of(self, backbone: Any) -> Sequence[Level | str]:
        """Return the input of each pooling, and the output of the last one."""
        return before_poolings(backbone.features)


plugin = VGG()
