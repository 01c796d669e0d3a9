"""Encoders with other channels and sizes match their networks; see tools/input_proofs.py."""

from __future__ import annotations

import pytest
from tests.sampling import LARGEST, smallest_of_families
from tools.input_proofs import prove

SMALLEST = [
    spec.qualified_name
    for spec in smallest_of_families("torchvision")
    if spec.task == "image" and spec.params < LARGEST
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *SMALLEST,
        *(f"timm:test_{kind}" for kind in ("byobnet", "convnext", "efficientnet", "vit")),
        "timm:swinv2_cr_tiny_ns_224",
        "hf:dinov2",
        "hf:swin",
    ],
)
def test_an_encoder_with_other_channels_and_sizes_matches_its_network(name):
    assert prove(name).problems == []
