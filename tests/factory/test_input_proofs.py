"""Encoders of other channels and sizes compute what their networks compute; see the tool."""

from __future__ import annotations

import pytest
from tools.input_proofs import prove

from headstrip.registry.registry import get_registry


def smallest_of_each_family(source):
    smallest = {}
    for spec in sorted(get_registry().specs(), key=lambda spec: -spec.params):
        if spec.source == source and spec.task == "image" and spec.params < 90_000_000:
            smallest[spec.family] = spec.qualified_name
    return sorted(smallest.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *smallest_of_each_family("torchvision"),
        *(f"timm:test_{kind}" for kind in ("byobnet", "convnext", "efficientnet", "vit")),
        "timm:levit_128s",
        "timm:swinv2_cr_tiny_ns_224",
        "hf:dinov2",
        "hf:swin",
    ],
)
def test_an_encoder_of_other_channels_and_sizes_computes_what_its_network_computes(name):
    assert prove(name).problems == []
