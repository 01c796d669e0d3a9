"""``Encoder.freeze(keep="norms")``: weights train, and statistics stay unchanged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from headstrip import build_encoder
from headstrip.encoder.encoder import Encoder


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder("shufflenet_v2_x0_5", weights=None, predictors={"colour": 3})


def step(encoder: Encoder) -> None:
    """Train every parameter on one batch."""
    optimizer = torch.optim.SGD([one for one in encoder.parameters() if one.requires_grad], lr=0.1)
    assert encoder.predictors is not None
    outputs = encoder.predict(torch.rand(2, 3, 64, 64))
    encoder.predictors.loss(outputs, {"colour": torch.tensor([0, 2])}).backward()
    optimizer.step()


def test_weights_train_and_statistics_stay_identical(encoder: Encoder) -> None:
    before = copy.deepcopy(encoder.backbone.state_dict())
    encoder.freeze(keep="norms").train()
    assert not encoder.frozen
    step(encoder)
    for name, value in encoder.backbone.named_buffers():
        assert torch.equal(value, before[name]), name
    assert all(one.grad is not None for one in encoder.backbone.parameters())
    assert not torch.equal(
        encoder.backbone.state_dict()["conv5.0.weight"], before["conv5.0.weight"]
    )
    assert encoder.backbone.training
    for module in encoder.backbone.modules():
        assert module.training != isinstance(module, nn.BatchNorm2d)


def test_unfreeze_and_freeze_replace_the_mode(encoder: Encoder) -> None:
    encoder.freeze(keep="norms").train().unfreeze()
    assert all(module.training for module in encoder.backbone.modules())
    encoder.freeze(keep="norms").freeze()
    before = copy.deepcopy(encoder.backbone.state_dict())
    step(encoder)
    after = encoder.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    encoder.freeze(keep="norms")
    assert all(one.requires_grad for one in encoder.backbone.parameters())
    assert not encoder.eval().backbone.training


def test_an_unknown_value_of_keep_is_refused(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="keep must be 'norms' or None, got 'norm'"):
        encoder.freeze(keep="norm")  # type: ignore[arg-type]  # what is tested
