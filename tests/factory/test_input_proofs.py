"""Encoders of other channels and sizes compute what their networks compute; see the tool."""

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
def test_an_encoder_of_other_channels_and_sizes_computes_what_its_network_computes(name):
    assert prove(name).problems == []
