"""MobileNetV3: the head is ``classifier.3``; the layer before it stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstrip.families.chains import ends_of_strides
from headstrip.families.family import TorchvisionFamily
from headstrip.network.levels import Level


class MobileNetV3(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("mobilenet_v3",)
    MODULE = "torchvision.models.mobilenetv3"
    HEAD = "classifier.3"

    def levels_of(self, backbone: Any) -> Sequence[Level | str]:
        """Return the last layer of each stride."""
        return ends_of_strides(backbone.features)


plugin = MobileNetV3()
