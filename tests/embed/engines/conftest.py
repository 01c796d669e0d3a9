"""Batches of pixels, and an encoder of 64 pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.conftest import pixels
from tests.embed.engines.networks import Small, with_backbone

from headstrip.encoder.encoder import Encoder


@pytest.fixture(scope="session")
def batches() -> list[np.ndarray]:
    """Return three batches of four pictures, uint8 (4, 64, 64, 3)."""
    return [
        np.stack([pixels(4 * batch + image, 64, 64) for image in range(4)]) for batch in range(3)
    ]


@pytest.fixture(scope="session")
def small(encoder: Encoder) -> Encoder:
    """Return an encoder with a network that is small enough for every engine."""
    torch.manual_seed(0)
    return with_backbone(encoder, Small(encoder.output_dim))
