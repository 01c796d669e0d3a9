"""``Encoder.parameter_groups``: the groups for an optimizer, and what training leaves unchanged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from headstrip import Attribute, build_encoder
from headstrip.encoder.encoder import Encoder

ATTRIBUTES = [Attribute("colour", "class", ("red", "blue")), Attribute("size", "number")]


def made(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder("shufflenet_v2_x0_5", weights=None, predictors=ATTRIBUTES, **changes)


@pytest.fixture(scope="module")
def shared() -> Encoder:
    return made()


def step(encoder: Encoder, groups: list[dict[str, Any]]) -> None:
    """Train on one batch with weight decay."""
    optimizer = torch.optim.AdamW(groups)
    assert encoder.predictors is not None
    outputs = encoder.predict(torch.rand(2, 3, 64, 64))
    targets = {"colour": torch.tensor([0, 1]), "size": torch.tensor([1.0, float("nan")])}
    encoder.predictors.loss(outputs, targets).backward()
    optimizer.step()


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_every_parameter_that_trains_is_in_exactly_one_group(
    shared: Encoder, data: st.DataObject
) -> None:
    shared.requires_grad_(True)
    names = sorted(name for name, one in shared.named_parameters() if one.requires_grad)
    for name in data.draw(st.lists(st.sampled_from(names[:-1]), unique=True)):
        shared.get_parameter(name).requires_grad_(False)
    layer_decay = data.draw(st.sampled_from([1.0, 0.7]))
    groups = shared.parameter_groups(lr=1e-3, layer_decay=layer_decay, weight_decay=0.1)
    grouped = [id(one) for group in groups for one in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(one) for one in shared.parameters() if one.requires_grad}
    assert len({group["name"] for group in groups}) == len(groups)


def test_learning_rates_fall_from_the_predictors_to_the_input(shared: Encoder) -> None:
    shared.requires_grad_(True)
    groups = shared.parameter_groups(lr=0.8, layer_decay=0.5, weight_decay=0.1)
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates)
    matrices = [group for group in groups if group["weight_decay"]]
    assert [group["lr"] for group in matrices[-3:]] == [0.2, 0.4, 0.8]
    # conv1, 16 blocks, conv5 and the predictors.
    assert len(matrices) == 19
    assert matrices[0]["lr"] == pytest.approx(0.8 * 0.5**18)
    assert matrices[0]["name"] == "backbone.layer0"
    assert matrices[-1]["name"] == "predictors"


def test_the_backbone_may_have_its_own_learning_rate(shared: Encoder) -> None:
    shared.requires_grad_(True)
    groups = shared.parameter_groups(lr=0.8, backbone_lr=0.01, layer_decay=0.5)
    by_name = {group["name"]: group["lr"] for group in groups}
    assert by_name["predictors"] == 0.8
    assert by_name["backbone.layer17"] == 0.01
    assert by_name["backbone.layer16"] == 0.005
    flat = shared.parameter_groups(lr=0.8, backbone_lr=0.01)
    assert [(group["name"], group["lr"]) for group in flat] == [
        ("backbone", 0.01),
        ("backbone.no_decay", 0.01),
        ("predictors", 0.8),
        ("predictors.no_decay", 0.8),
    ]


def test_weight_decay_applies_only_to_matrices(shared: Encoder) -> None:
    shared.requires_grad_(True)
    groups = shared.parameter_groups(lr=1e-3, weight_decay=0.1)
    decayed = {id(one) for group in groups if group["weight_decay"] for one in group["params"]}
    for name, parameter in shared.named_parameters():
        if parameter.requires_grad:
            assert (id(parameter) in decayed) == (parameter.ndim > 1), name
    # The predictor of a number has a matrix of one row.
    assert shared.predictors is not None
    assert id(shared.predictors["size"].weight) in decayed


def test_a_training_step_changes_no_statistics_and_no_frozen_parameter() -> None:
    encoder = made().freeze(keep="norms").train()
    frozen = ("conv1", "stage2")
    for name in frozen:
        encoder.backbone.get_submodule(name).requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    step(encoder, encoder.parameter_groups(lr=0.1, layer_decay=0.9, weight_decay=0.5))
    trains = {name for name, one in encoder.named_parameters() if one.requires_grad}
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trains), name


def test_with_a_frozen_backbone_only_the_predictors_are_grouped() -> None:
    encoder = made().freeze().train()
    before = copy.deepcopy(encoder.state_dict())
    groups = encoder.parameter_groups(lr=0.1, layer_decay=0.9, weight_decay=0.5)
    assert [group["name"] for group in groups] == ["predictors", "predictors.no_decay"]
    step(encoder, groups)
    after = encoder.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"predictors.{name}" for name in encoder.predictors.state_dict()}


def test_modules_that_a_user_adds_are_grouped() -> None:
    encoder = made(in_chans=5)
    encoder.more = nn.Linear(2, 2)
    groups = encoder.parameter_groups(lr=1e-3, layer_decay=0.7, weight_decay=0.1)
    grouped = {id(one) for group in groups for one in group["params"]}
    assert grouped == {id(one) for one in encoder.parameters() if one.requires_grad}
    assert any(encoder.more.weight is one for one in groups[-2]["params"])


def test_parameters_in_no_weight_decay_of_the_network_are_exempt(shared: Encoder) -> None:
    shared.requires_grad_(True)
    shared.backbone.no_weight_decay = lambda: {"conv1.0.weight"}
    try:
        groups = shared.parameter_groups(lr=1e-3, weight_decay=0.1)
    finally:
        del shared.backbone.no_weight_decay
    (exempt,) = [one for group in groups[1:2] for one in group["params"] if one.ndim == 4]
    assert exempt is shared.backbone.get_parameter("conv1.0.weight")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1}, "lr must be a number of 0 or more, got -1"),
        ({"lr": "x"}, "lr must be a number of 0 or more, got 'x'"),
        ({"lr": 1, "backbone_lr": float("nan")}, "backbone_lr must be a number"),
        ({"lr": 1, "weight_decay": float("inf")}, "weight_decay must be a number"),
        ({"lr": 1, "layer_decay": 0}, "layer_decay must be above 0 and at most 1, got 0"),
        ({"lr": 1, "layer_decay": 1.1}, "Pass for example 0.75"),
    ],
)
def test_invalid_numbers_are_refused(
    shared: Encoder, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        shared.parameter_groups(**arguments)


def test_a_fully_frozen_encoder_is_refused(encoder: Encoder) -> None:
    frozen = copy.deepcopy(encoder).freeze()
    with pytest.raises(ValueError, match="No parameter of the encoder trains"):
        frozen.parameter_groups(lr=1e-3)
