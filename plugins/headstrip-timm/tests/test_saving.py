"""A saved folder restores encoders with timm's networks."""

from __future__ import annotations

import pytest
import timm
import torch

from headstrip import build_encoder


def assert_survives(encoder, folder):
    """Save an encoder, and compare it with the encoder built from the folder."""
    encoder.save(folder)
    again = build_encoder(folder)
    assert again.fingerprint == encoder.fingerprint
    assert again.manifest() == encoder.manifest()
    assert (again.labels, again.weights) == (encoder.labels, encoder.weights)
    x = torch.rand(2, *encoder.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(x), encoder(x))
        if encoder.head is not None:
            assert torch.equal(again.logits(x), encoder.logits(x))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("test_vit", {}),
        ("test_vit", {"img_size": 96}),
        ("resnet10t", {"in_chans": 1}),
        ("test_efficientnet", {"in_chans": ("N", "B", "G", "R"), "new_channels": "zero"}),
    ],
    ids=str,
)
def test_a_folder_restores_a_checkpoint_with_any_input(name, more, tmp_path):
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False, num_classes=7)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    encoder = build_encoder(f"timm:{name}", weights=tmp_path / "own.pth", **more)
    assert_survives(encoder, tmp_path / "cells")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vit", {"global_pool": "avg"}),
        ("test_vit", {"img_size": (32, 64), "in_chans": 5}),
        ("vit_tiny_patch16_224", {"depth": 1, "dynamic_img_size": True}),
        ("vit_small_patch16_rope_224", {"depth": 1}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}),
        ("test_convnext", {}),
        ("test_nfnet", {}),
    ],
    ids=str,
)
def test_a_folder_restores_random_weights_with_options(name, options, tmp_path):
    if not timm.is_model(name):
        pytest.skip("this timm lacks it")
    encoder = build_encoder(f"timm:{name}", weights=None, options=options)
    assert_survives(encoder, tmp_path / "cells")
