"""State dicts of predictors: loaded by the names of attributes, or refused."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from headstrip import HeadstripError, WeightsError, build_encoder, init_predictors
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.predictors import Predictors, key_of

NAME = "squeezenet1_1"


def built(predictors: Mapping[str, int] | None) -> Encoder:
    return build_encoder(NAME, weights=None, predictors=predictors)


def through_torch(state: Any) -> Any:
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=True)


def by_position(predictors: Predictors, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the state dict in the form that older versions wrote."""
    modules = nn.ModuleList(list(predictors))
    return {f"{prefix}{key}": value for key, value in modules.state_dict().items()}


def are_equal(one: Predictors, other: Predictors) -> bool:
    mine, theirs = one.named(), other.named()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name].weight, theirs[name].weight)
        and torch.equal(mine[name].bias, theirs[name].bias)
        for name in mine
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_attributes_of_equal_size_load_by_name_in_any_order(strict: bool, assign: bool) -> None:
    saved = built({"shape": 4, "colour": 4, "texture": 4})
    other = built({"texture": 4, "colour": 4, "shape": 4})
    state = through_torch(saved.state_dict())
    loaded = other.load_state_dict(state, strict=strict, assign=assign)
    assert loaded == ([], [])
    assert saved.predictors is not None
    assert are_equal(saved.predictors, Predictors(1, {})) is False
    assert other.predictors is not None
    for name in saved.predictors.names:
        assert torch.equal(other.predictors[name].weight, saved.predictors[name].weight)


names = st.text(max_size=6) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "a.b",
        "a",
        "a.weight",
        "0",
        "1",
        "12",
        "-1",
        "1.0",
        "%",
        "%2E",
        "%31",
        "a/b",
        "a b",
        "\n",
        "weight",
        "bias",
        "train",
        "type",
        "names",
        "forward",
        "_modules",
        "_initial",
        "training",
        "_extra_state",
        "😀",
        "größe",
        "predictors",
        "module",
    ]
)


@given(
    attributes=st.dictionaries(names, st.integers(1, 2), min_size=1, max_size=6), order=st.randoms()
)
@settings(max_examples=100, deadline=None)
def test_an_attribute_of_any_name_is_saved_and_loaded(
    attributes: dict[str, int], order: Any
) -> None:
    shuffled = list(attributes.items())
    order.shuffle(shuffled)
    saved, other = Predictors(3, attributes), Predictors(3, dict(shuffled))
    other.train().eval().load_state_dict(through_torch(saved.state_dict()))
    assert all(torch.equal(other[name].weight, saved[name].weight) for name in attributes)
    again = Predictors(3, dict(shuffled))
    again.load_state_dict(load(save(saved.state_dict())))
    assert are_equal(again, other)


def test_a_parameter_of_any_attribute_name_is_reached_by_its_path() -> None:
    # transformers adds methods to torch's own class if an earlier test imported it.
    added = {
        name
        for name, value in vars(nn.Module).items()
        if str(getattr(value, "__module__", "")).startswith("transformers")
    }
    taken = {name for name in dir(nn.Module()) if not name.startswith("__")}
    names = sorted((taken | set(dir(Predictors))) - added)
    predictors = Predictors(3, dict.fromkeys([*names, "", "0", "a.b"], 2))
    predictors.train().float().requires_grad_(True)
    for name, parameter in predictors.named_parameters():
        assert predictors.get_parameter(name) is parameter
    single = Predictors(3, {"type": 2})
    x = torch.rand(4, 3)
    both = nn.Sequential(single)
    both.forward = lambda x: single.predict(x)["type"]  # type: ignore[assignment, method-assign]
    values = {name: 2 * value for name, value in both.named_parameters()}
    assert torch.allclose(torch.func.functional_call(both, values, (x,)), 2 * both(x))


def test_different_names_have_different_keys() -> None:
    alphabet = ["", "0", "1", "3", ".", "%", "2", "E", "a"]
    texts = {"".join(letters) for letters in itertools.product(alphabet, repeat=4)}
    keys = {key_of(text) for text in texts}
    assert len(keys) == len(texts)
    assert not any("." in key or key.isdecimal() or not key for key in keys)


def test_a_file_by_position_loads_if_all_sizes_differ() -> None:
    saved = Predictors(5, {"shape": 2, "colour": 7, "texture": 3})
    other = Predictors(5, {"texture": 3, "shape": 2, "colour": 7})
    other.load_state_dict(by_position(saved))
    assert all(torch.equal(other[name].weight, saved[name].weight) for name in saved.names)


@pytest.mark.parametrize("wrapped", [lambda one: one, lambda one: nn.ModuleDict({"model": one})])
def test_an_encoders_file_by_position_loads_inside_another_module_too(wrapped: Any) -> None:
    saved, other = built({"shape": 2, "colour": 7}), built({"colour": 7, "shape": 2})
    assert saved.predictors is not None
    assert other.predictors is not None
    old = OrderedDict(saved.state_dict())
    for key in list(old):
        if key.startswith("predictors."):
            del old[key]
    old |= by_position(saved.predictors, "predictors.")
    prefix = "" if wrapped(other) is other else "model."
    wrapped(other).load_state_dict({f"{prefix}{key}": value for key, value in old.items()})
    assert all(
        torch.equal(other.predictors[name].weight, saved.predictors[name].weight)
        for name in saved.predictors.names
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({"shape": 4, "colour": 4}, {"colour": 4, "shape": 4}),
        ({"shape": 4, "colour": 4}, {"shape": 4, "colour": 4}),
        ({"a": 3, "b": 2, "c": 3}, {"a": 3, "b": 2, "c": 3}),
        ({"a": 3, "b": 2}, {"a": 3}),
        ({"a": 3}, {"a": 3, "b": 2}),
        ({"a": 3, "b": 2}, {"a": 3, "b": 5}),
        ({"x": 3, "y": 3}, {"0": 3, "1": 3}),
    ],
)
def test_an_ambiguous_file_by_position_is_refused(
    strict: bool, there: dict[str, int], here: dict[str, int]
) -> None:
    mine = Predictors(5, here)
    before = copy.deepcopy(mine)
    with pytest.raises(WeightsError, match=r"by position \(0 .*Rename its keys.*\.$") as caught:
        mine.load_state_dict(by_position(Predictors(5, there)), strict=strict)
    assert all(repr(name) in str(caught.value) for name in here)
    assert are_equal(mine, before)


def test_a_refused_state_dict_leaves_the_encoder_unchanged() -> None:
    saved, other = built({"a": 2, "b": 2}), built({"a": 2, "b": 2})
    assert saved.predictors is not None
    before = copy.deepcopy(other.state_dict())
    state = {k: v for k, v in saved.state_dict().items() if not k.startswith("predictors.")}
    with pytest.raises(WeightsError, match="by position"):
        other.load_state_dict({**state, **by_position(saved.predictors, "predictors.")})
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"a": 3}, {"a": 4}, "of 'a' has 3 classes in the state dict and 4 in the encoder"),
        ({"a": 3, "b": 2}, {"a": 3}, "has predictors of 'b', which the encoder lacks"),
        ({"a": 3}, {"a": 3, "b.c": 2}, "state dict lacks the predictors of 'b.c'"),
        (
            {"a": 3},
            {"b": 3},
            "has predictors of 'a', which the encoder lacks and lacks the predictors of",
        ),
        ({"a": 3}, None, "has predictors of 'a', which the encoder lacks"),
        (None, {"a": 3}, "state dict lacks the predictors of 'a'"),
    ],
)
def test_other_attributes_and_classes_give_a_clear_error(
    there: dict[str, int] | None, here: dict[str, int] | None, words: str
) -> None:
    mine = built(here)
    with pytest.raises(WeightsError, match=words) as caught:
        mine.load_state_dict(built(there).state_dict())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, RuntimeError)


def test_predictors_of_another_width_give_a_clear_error() -> None:
    with pytest.raises(WeightsError, match="takes embeddings of 6 numbers, and this encoder gi"):
        Predictors(5, {"a": 3}).load_state_dict(Predictors(6, {"a": 3}).state_dict())


def test_strict_false_loads_common_attributes_and_lists_the_others() -> None:
    saved, other = Predictors(5, {"a": 3, "b": 2}), Predictors(5, {"c": 2, "a": 3})
    missing, unexpected = other.load_state_dict(saved.state_dict(), strict=False)
    assert set(missing) == {"c.weight", "c.bias"}
    assert set(unexpected) == {"b.weight", "b.bias"}
    assert torch.equal(other["a"].weight, saved["a"].weight)
    with pytest.raises(WeightsError, match="has 3 classes in the state dict and 4"):
        Predictors(5, {"a": 4}).load_state_dict(saved.state_dict(), strict=False)


def test_a_pickle_of_an_older_version_keeps_its_attribute_names() -> None:
    old = Predictors(5, {"b": 2, "a": 2})
    state = {**old.__dict__, "_modules": dict(zip("01", old, strict=True))}
    del state["_initial"]
    again = Predictors.__new__(Predictors)
    again.__setstate__(pickle.loads(pickle.dumps(state)))
    assert list(again.state_dict()) == ["b.weight", "b.bias", "a.weight", "a.bias"]
    assert are_equal(again, old)
    assert again.trained


def test_predictors_are_a_sequence_of_modules() -> None:
    predictors = Predictors(5, {"b": 2, "a": 3})
    assert len(predictors) == 2
    assert list(predictors) == [predictors[0], predictors[1]] == [predictors["b"], predictors[-1]]
    assert [one.shape for one in predictors.parameters()] == [(2, 5), (2,), (3, 5), (3,)]
    predictors["a"] = nn.Identity()
    assert isinstance(predictors[1], nn.Identity)
    with pytest.raises(IndexError):
        predictors[2]
    with pytest.raises(KeyError):
        predictors["c"]
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got 3"):
        predictors[0] = 3  # type: ignore[assignment]


def test_compiled_and_wrapped_encoders_have_the_same_keys() -> None:
    saved, other = built({"a": 2, "b": 2}), built({"b": 2, "a": 2})
    compiled = torch.compile(saved, backend="eager")
    state = {key.removeprefix("_orig_mod."): value for key, value in compiled.state_dict().items()}
    assert state.keys() == saved.state_dict().keys()
    nn.DataParallel(other).load_state_dict({f"module.{key}": one for key, one in state.items()})
    assert other.predictors is not None
    assert saved.predictors is not None
    assert torch.equal(other.predictors["a"].weight, saved.predictors["a"].weight)


def test_training_marks_predictors_as_trained_and_a_cast_does_not() -> None:
    predictors = Predictors(5, {"a": 3, "b": 2})
    for cast in (torch.float64, torch.float16, torch.bfloat16, torch.float32):
        assert not copy.deepcopy(predictors).to(cast).trained
        assert not copy.deepcopy(predictors).to(cast).float().trained
    loaded = copy.deepcopy(predictors)
    loaded.load_state_dict(Predictors(5, {"a": 3, "b": 2}).state_dict())
    assert loaded.trained
    optimizer = torch.optim.SGD(predictors.parameters(), lr=1e-3)
    predictors.predict(torch.rand(4, 5))["b"].sum().backward()
    optimizer.step()
    assert predictors.trained
    assert pickle.loads(pickle.dumps(predictors)).trained
    init_predictors(predictors)
    assert not predictors.trained


def test_the_smallest_change_of_one_bias_counts_as_training() -> None:
    predictors = Predictors(5, {"a": 3})
    predictors["a"].bias.data[1] = torch.finfo(torch.float32).tiny
    assert predictors.trained


def test_an_invalid_or_empty_state_dict_is_refused() -> None:
    predictors = Predictors(5, {"a": 3})
    with warnings.catch_warnings(), pytest.raises((TypeError, RuntimeError)):
        predictors.load_state_dict([1])  # type: ignore[arg-type]
    with pytest.raises((HeadstripError, RuntimeError), match="lacks the predictors of 'a'"):
        predictors.load_state_dict({})
