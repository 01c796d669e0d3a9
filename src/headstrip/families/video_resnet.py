"""R3D, MC3 and R(2+1)D: the head is ``fc``."""

from __future__ import annotations

from headstrip.families.family import TorchvisionFamily


class VideoResNet(TorchvisionFamily):
    """The built-in plugin of this family."""

    FAMILIES = ("video_resnet",)
    MODULE = "torchvision.models.video.resnet"
    HEAD = "fc"
    TASK = "video"


plugin = VideoResNet()
