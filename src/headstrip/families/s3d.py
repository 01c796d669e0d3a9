"""S3D: the head is a 1x1x1 convolution, ``classifier.1``; the mean over time and space stays."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from headstrip.families.family import TorchvisionFamily
from headstrip.network.head import Stripped, detach, find


class ConvolutionHead(nn.Module):
    """A 1x1x1 convolution that maps an embedding to logits."""

    def __init__(self, convolution: nn.Module) -> None:
        """Use the layer of the network."""
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, dim) to (N, classes)."""
        logits: Tensor = self.convolution(x[:, :, None, None, None])
        return logits.flatten(1)


class S3D(TorchvisionFamily):
    """The built-in plugin of this family.

    torchvision evaluates on 128 frames. The catalog states 16, with which the pooling leaves one
    position and the head is exact. With more frames the order of convolution and mean differs from
    the network's, and the logits differ by rounding.
    """

    FAMILIES = ("s3d",)
    MODULE = "torchvision.models.video.s3d"
    TASK = "video"

    def strip(self, model: nn.Module) -> Stripped:
        """Take the head off a network of this family, in place."""
        head = ConvolutionHead(find(model, "classifier.1", nn.Conv3d))
        return replace(detach(model, "classifier.1", kind=nn.Conv3d), head=head)


plugin = S3D()
