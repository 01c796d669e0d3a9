"""Networks that stand in for an encoder's."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from headstrip.encoder.encoder import Encoder


class Small(nn.Sequential):
    """A network that every engine takes over in seconds."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=4),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, width),
        )


class Branching(nn.Module):
    """Takes a way that depends on the pixels, which no graph has."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :1024] * (1 if images.sum() > 0 else 2)


class Failing(nn.Module):
    """Cannot run at all."""

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError("this network cannot be run")


def with_backbone(encoder: Encoder, backbone: nn.Module) -> Encoder:
    """Copy an encoder, with another network in it."""
    encoder = copy.deepcopy(encoder)
    encoder.backbone = backbone.eval()
    return encoder
