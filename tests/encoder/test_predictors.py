"""Attribute predictors: named, Kaiming-initialised, and bit for bit as in plain torch code."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from headstrip import build_encoder, init_predictors
from headstrip.encoder.predictors import Predictors

AWKWARD = {"type": 3, "a.b": 2, "train": 4, "": 1, "names": 2, "forward": 1, "0": 5, "größe": 2}


def test_an_attribute_may_have_any_name() -> None:
    predictors = Predictors(5, AWKWARD)
    logits = predictors.predict(torch.rand(2, 5))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        name: (2, classes) for name, classes in AWKWARD.items()
    }
    assert list(logits) == predictors.names == list(AWKWARD)


def test_each_attribute_is_predicted_by_its_own_layer() -> None:
    predictors = Predictors(5, {"b": 2, "a": 3})
    x = torch.rand(4, 5)
    assert list(predictors.named()) == ["b", "a"]
    assert torch.equal(predictors.predict(x)["a"], predictors[1](x))


def test_the_state_dict_keys_have_the_names_of_the_attributes() -> None:
    encoder = build_encoder("squeezenet1_1", weights=None, predictors={"colour": 3, "a.b": 2})
    assert [key for key in encoder.state_dict() if key.startswith("predictors")] == [
        "predictors.colour.weight",
        "predictors.colour.bias",
        "predictors.a%2Eb.weight",
        "predictors.a%2Eb.bias",
    ]
    assert encoder.predict(torch.rand(2, 3, 64, 64))["a.b"].shape == (2, 2)


def test_weights_are_kaiming_normal_and_biases_zero() -> None:
    torch.manual_seed(0)
    predictors = Predictors(512, {"a": 400, "b": 300})
    for layer in predictors:
        assert layer.weight.mean().item() == pytest.approx(0, abs=1e-3)
        assert layer.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.01)
        assert torch.count_nonzero(layer.bias) == 0


@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_seed_gives_the_same_values_as_plain_torch_code(
    dim: int, classes: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    plain = nn.ModuleList([nn.Linear(dim, count) for count in classes])
    for head in plain:
        nn.init.kaiming_normal_(head.weight, nonlinearity="relu")
        nn.init.zeros_(head.bias)
    torch.manual_seed(seed)
    mine = Predictors(dim, {f"attribute {i}": count for i, count in enumerate(classes)})
    for own, expected in zip(mine.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, expected)


def by_pickle(predictors: Predictors) -> Any:
    return pickle.loads(pickle.dumps(predictors))


def by_torch(predictors: Predictors) -> Any:
    stored = io.BytesIO()
    torch.save(predictors, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=False)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, by_pickle, by_torch])
def test_a_copy_predicts_the_same(copied: Callable[[Predictors], Predictors]) -> None:
    predictors, x = Predictors(5, AWKWARD), torch.rand(2, 5)
    again = copied(predictors)
    assert isinstance(again, Predictors)
    assert again.names == predictors.names
    for name, logits in predictors.predict(x).items():
        assert torch.equal(again.predict(x)[name], logits)


def test_a_slice_is_a_plain_list_of_modules() -> None:
    predictors = Predictors(5, {"a": 2, "b": 3, "c": 4})
    part = predictors[1:]
    assert [layer.out_features for layer in part] == [3, 4]
    assert part[0] is predictors[1]


@pytest.mark.parametrize("classes", [{"a": np.int64(3)}, MappingProxyType({"a": 3})], ids=repr)
def test_any_mapping_to_integers_is_accepted(classes: Any) -> None:
    assert Predictors(5, classes).predict(torch.rand(2, 5))["a"].shape == (2, 3)


@pytest.mark.parametrize(
    "classes",
    [{"a": 0}, {"a": -1}, {"a": 2.0}, {"a": True}, {"a": "3"}, {"a": None}, {1: 2}, {None: 2}],
    ids=repr,
)
def test_an_invalid_number_of_classes_is_refused(classes: Any) -> None:
    with pytest.raises(ValueError, match=r"predictors has .*, which is not an attr.*'colour': 12"):
        build_encoder("squeezenet1_1", weights=None, predictors=classes)


@pytest.mark.parametrize("classes", [["a", "b"], 12, {"a"}], ids=repr)
def test_an_argument_that_is_not_a_mapping_is_refused(classes: Any) -> None:
    with pytest.raises(ValueError, match=r"predictors=.* is an? \w+\. Pass a mapping"):
        build_encoder("squeezenet1_1", weights=None, predictors=classes)


def test_custom_heads_are_initialised_in_place_and_in_order() -> None:
    heads = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 2, bias=False), nn.Conv2d(3, 5, 2)])
    expected = copy.deepcopy(heads)
    torch.manual_seed(1)
    for head in expected:
        nn.init.kaiming_normal_(head.weight, nonlinearity="relu")
        if head.bias is not None:
            nn.init.zeros_(head.bias)
    torch.manual_seed(1)
    assert init_predictors(heads) is None
    for mine, plain in zip(heads.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, plain)
    assert heads[1].bias is None


def test_the_initialisation_of_a_convolution_counts_its_kernel_as_inputs() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(64, 256, 3)
    init_predictors([convolution])
    assert convolution.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    "collection", [list, tuple, iter, nn.ModuleList, lambda m: nn.Sequential(*m)]
)
def test_any_collection_of_modules_is_accepted(collection: Callable[[Any], Any]) -> None:
    heads = [nn.Linear(4, 2), nn.Linear(4, 3)]
    init_predictors(collection(heads))
    assert all(torch.count_nonzero(head.bias) == 0 for head in heads)


class OwnHead(nn.Module):
    """A layer with a ``bias`` that is False instead of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(3, 4)), False


def test_a_bias_that_is_not_a_tensor_is_left_unchanged() -> None:
    head = OwnHead()
    init_predictors([head])
    assert head.bias is False
    assert head.weight.std() > 0


@pytest.mark.parametrize(
    "misfit",
    [
        nn.ReLU(),
        nn.BatchNorm1d(4),
        nn.LayerNorm(4),
        nn.Identity(),
        nn.Sequential(nn.Linear(4, 2)),
        parametrizations.weight_norm(nn.Linear(4, 2)),
        "linear",
        None,
    ],
    ids=lambda misfit: type(misfit).__name__,
)
def test_a_module_without_a_weight_is_refused_and_nothing_changes(misfit: Any) -> None:
    head = nn.Linear(4, 2)
    before, random = copy.deepcopy(head), torch.get_rng_state()
    with pytest.raises(ValueError, match=rf"Module 1, an? {type(misfit).__name__}, has no weight"):
        init_predictors([head, misfit])
    assert torch.equal(head.weight, before.weight)
    assert torch.equal(head.bias, before.bias)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("modules", [nn.Linear(4, 2), None, 3], ids=repr)
def test_an_argument_that_is_not_a_collection_is_refused(modules: Any) -> None:
    with pytest.raises(ValueError, match=r"not a collection of modules\. Pass a list"):
        init_predictors(modules)
