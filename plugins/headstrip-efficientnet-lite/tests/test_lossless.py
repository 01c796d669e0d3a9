"""Removing the head loses nothing."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from headstrip import HeadNotFoundError, build_encoder, strip_head

FAMILY = "efficientnet-lite:efficientnet_lite"


@pytest.fixture
def perturbed(name, perturbed_state, tmp_path):
    """An encoder with perturbed weights from a file with timm's tensor names."""
    torch.save(perturbed_state, tmp_path / "perturbed.pth")
    return build_encoder(name, weights=tmp_path / "perturbed.pth")


@pytest.fixture
def untouched(variant, perturbed_state):
    """timm's network with the same weights."""
    model = timm.create_model(f"tf_efficientnet_{variant}").eval()
    model.load_state_dict(perturbed_state)
    return model


@torch.inference_mode()
def test_the_kept_head_computes_the_logits_of_the_untouched_network_exactly(
    perturbed, untouched, batch
):
    logits = perturbed.head(perturbed(batch))
    assert torch.equal(logits, untouched(batch))
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])
    assert perturbed.law == "exact"


@torch.inference_mode()
def test_another_pooling_gives_other_logits(perturbed, untouched, batch):
    perturbed.backbone.global_pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    assert not torch.allclose(perturbed.head(perturbed(batch)), untouched(batch), atol=1e-2)


@torch.inference_mode()
def test_the_embedding_is_1280_wide(encoder, batch):
    assert encoder.output_dim == 1280
    assert encoder(batch).shape == (len(batch), 1280)


def test_strip_head_removes_the_head_of_a_users_network():
    stripped = strip_head(timm.create_model("tf_efficientnet_lite0", num_classes=7), family=FAMILY)
    assert stripped.head.out_features == 7
    assert isinstance(stripped.backbone.classifier, nn.Identity)


def test_a_network_of_another_structure_is_refused():
    with pytest.raises(HeadNotFoundError, match="classifier"):
        strip_head(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), family=FAMILY)


def test_a_network_for_grey_images_has_one_input_channel():
    encoder = build_encoder(f"{FAMILY}0", weights=None, options={"in_chans": 1})
    assert encoder.input_shape == (1, 224, 224)
    assert encoder(torch.zeros(2, 1, 224, 224)).shape == (2, 1280)
