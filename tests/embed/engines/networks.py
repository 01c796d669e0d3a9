"""Small networks to put into an encoder, and engines for them."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from headstrip.embed.engines.engine import Engine
from headstrip.embed.engines.make import make_engine
from headstrip.embed.settings import EmbedSettings
from headstrip.encoder.encoder import Encoder


class Small(nn.Sequential):
    """A network that every engine converts in seconds."""

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
    """A network with a branch on its pixels, which no exported graph can express."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :1024] * (1 if images.sum() > 0 else 2)


class Failing(nn.Module):
    """A network that always fails."""

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError("this network cannot be run")


def with_backbone(encoder: Encoder, backbone: nn.Module) -> Encoder:
    """Copy an encoder, and give the copy another network."""
    encoder = copy.deepcopy(encoder)
    encoder.backbone = backbone.eval()
    return encoder


def engine_of(encoder: Encoder, **settings: Any) -> Engine:
    """Make an engine: "torch" in fp32 for batches of four and one thread, if not stated."""
    chosen = {
        "engine": "torch",
        "precision": "fp32",
        "batch_size": 4,
        "threads": 1,
        "channels_last": True,
    }
    return make_engine(encoder, EmbedSettings(**{**chosen, **settings}))
