"""Feature maps of timm's networks are timm's own, with the embedding from the same forward pass."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from headstrip import Encoder, LevelError, build_encoder
from headstrip.testing.perturb import FastRandom, perturb
from headstrip_timm.adapters import MeanOverPositions

SMALL = (
    "test_resnet",
    "test_vit",
    "test_vit_relpos",
    "test_convnext",
    "test_efficientnet",
    "efficientvit_m0",
    "mobilenetv3_small_050",
    "deit_tiny_distilled_patch16_224",
)


def made(name: str) -> Encoder:
    torch.manual_seed(0)
    with FastRandom():
        encoder = build_encoder(f"timm:{name}", weights=None)
        perturb(encoder.backbone)
    return encoder


def network_of(encoder: Encoder) -> nn.Module:
    backbone = encoder.backbone
    return backbone.model if isinstance(backbone, MeanOverPositions) else backbone


@pytest.mark.parametrize("name", [one for one in SMALL if timm.is_model(one)])
@torch.no_grad()
def test_maps_equal_those_of_timm(name: str) -> None:
    encoder = made(name)
    x = torch.randn(1, *encoder.input_shape)
    if not hasattr(network_of(encoder), "forward_intermediates"):
        with pytest.raises(LevelError, match="has no forward_intermediates"):
            encoder.maps(x)
        return
    embedding, maps = encoder.with_maps(x, norm=False)
    assert torch.equal(embedding, encoder(x))
    _, theirs = network_of(encoder).forward_intermediates(x)
    assert all(map(torch.equal, maps, theirs))
    assert len(maps) == len(theirs)
    pyramid = encoder.pyramid()
    assert pyramid.channels == tuple(one.shape[1] for one in maps)
    last, normed = maps[-1], encoder.maps(x, levels=[-1])[0]
    assert normed.shape == last.shape


@torch.no_grad()
def test_maps_without_the_norm_equal_features_only() -> None:
    for name in ("resnet10t", "test_vit"):
        encoder = made(name)
        theirs = timm.create_model(name, features_only=True, pretrained=False).eval()
        if name == "test_vit":
            theirs.model.load_state_dict(encoder.backbone.state_dict(), strict=False)
        else:
            theirs.load_state_dict(encoder.backbone.state_dict(), strict=False)
        x = torch.randn(1, *encoder.input_shape)
        found = theirs(x)
        own = encoder.maps(x, norm=False)[-len(found) :]
        assert all(map(torch.equal, own, found))


@torch.no_grad()
@pytest.mark.parametrize("read", ["maps", "tokens"])
def test_a_network_that_drops_patches_has_no_maps_in_training_mode(read: str) -> None:
    encoder = build_encoder("timm:test_vit", weights=None, options={"patch_drop_rate": 0.5})
    x = torch.randn(2, *encoder.input_shape)
    expected = getattr(encoder, read)(x)
    encoder.train()
    assert encoder(x).shape == (2, encoder.output_dim)
    with pytest.raises(LevelError, match=r"drops patches \(patch_drop_rate=0.5\), so it has no"):
        getattr(encoder, read)(x)
    with pytest.raises(LevelError, match="In train mode the network drops patches"):
        encoder.pyramid()(x)
    encoder.eval()
    assert str(getattr(encoder, read)(x)) == str(expected)
    encoder.train().backbone.patch_drop.prob = 0.0
    assert encoder.pyramid()(x)[0].shape[1] == 64


@torch.no_grad()
def test_tokens_of_a_vit_are_after_its_norm() -> None:
    encoder = made("test_vit")
    x = torch.randn(2, *encoder.input_shape)
    tokens = encoder.tokens(x)
    features = encoder.backbone.forward_features(x)
    assert torch.equal(torch.cat([tokens.prefix, tokens.patches], 1), features)
    raw = encoder.tokens(x, norm=False)
    assert torch.equal(encoder.backbone.norm(torch.cat([raw.prefix, raw.patches], 1)), features)


@torch.no_grad()
def test_one_level_equals_that_level_among_all_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = made("test_vit")
    x = torch.randn(1, *encoder.input_shape)
    every = encoder.maps(x)
    assert torch.equal(encoder.maps(x, levels=[0])[0], every[0])
    assert torch.equal(encoder.maps(x, levels=[-1])[0], every[-1])


def test_a_resnet_has_no_tokens() -> None:
    encoder = made("resnet10t")
    with pytest.raises(LevelError, match="has no tokens at level"):
        encoder.tokens(torch.zeros(1, *encoder.input_shape))
    with pytest.raises(LevelError, match="has no level 7: it has 5"):
        encoder.maps(torch.zeros(1, *encoder.input_shape), levels=[7])


@torch.no_grad()
def test_a_pyramid_of_a_timm_network_can_be_copied_and_shares_its_mode() -> None:
    import copy

    encoder = made("resnet10t")
    pyramid = encoder.pyramid()
    x = torch.randn(1, *encoder.input_shape)
    assert all(map(torch.equal, copy.deepcopy(pyramid)(x), encoder.maps(x)))
    pyramid.train()
    assert encoder.backbone.training
    assert {id(one) for one in pyramid.parameters()} == {
        id(one) for one in encoder.backbone.parameters()
    }


def test_the_strides_of_a_network_of_one_size_match_timms() -> None:
    # Taking every second one of 7 cells gives 4, so the stride is not 224 / 4.
    encoder = made("levit_128s")
    theirs = tuple(one["reduction"] for one in encoder.backbone.feature_info)
    assert encoder.pyramid().strides == encoder.spec.strides == theirs == (16, 32, 64)
