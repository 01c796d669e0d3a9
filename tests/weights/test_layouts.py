"""The state dict of a network is found in a checkpoint of any layout, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.weights.files import State, save_safetensors, save_zip
from tests.weights.layouts import LAYOUTS, dino, moco, prefixed

from headstrip import Encoder, WeightsError, build_encoder

NAMES = ["squeezenet1_1", "timm:resnet10t", "timm:test_vit", "hf:convnext"]
SMALL = "shufflenet_v2_x0_5"


def source_of(name: str) -> State:
    if name.startswith("hf:"):
        pytest.importorskip("headstrip_transformers")
    torch.manual_seed(0)
    return {**build_encoder(name, weights=None).backbone.state_dict()}


@pytest.fixture(scope="module")
def sources() -> dict[str, State]:
    return {name: source_of(name) for name in NAMES}


@pytest.fixture(scope="module")
def small() -> State:
    return source_of(SMALL)


def holds(encoder: Encoder, state: State) -> bool:
    own = encoder.backbone.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_encoder_has_the_tensors_of_every_layout_bit_for_bit(
    layout: str, name: str, sources: dict[str, State], tmp_path: Path
) -> None:
    make, key, place = LAYOUTS[layout]
    path = save_zip(make(sources[name]), tmp_path / "run")
    encoder = build_encoder(name, weights=path, weights_key=key)
    assert holds(encoder, sources[name])
    # The names of transformers' towers begin with "network", and timm takes "module" off itself.
    places = (place, f"{place}.network".lstrip("."), place.removesuffix(".module"))
    assert encoder.weights_key in places


@pytest.mark.parametrize("layout", [one for one, (_, key, _) in LAYOUTS.items() if key])
def test_without_a_key_several_are_refused_and_the_key_in_the_message_works(
    layout: str, small: State, tmp_path: Path
) -> None:
    path = save_zip(LAYOUTS[layout][0](small), tmp_path / "run")
    with pytest.raises(WeightsError, match="holds 2 state dicts that fit") as caught:
        build_encoder(SMALL, weights=path)
    key = str(caught.value).partition("weights_key='")[2].partition("'")[0]
    assert build_encoder(SMALL, weights=path, weights_key=key).weights_key


def flat(content: Any, prefix: str = "") -> State:
    """The tensors of nested dicts with names as safetensors needs them."""
    if isinstance(content, torch.Tensor):
        return {prefix.removesuffix("."): content}
    inner = content.items() if isinstance(content, dict) else ()
    return {key: one for name, part in inner for key, one in flat(part, f"{prefix}{name}.").items()}


@pytest.mark.parametrize("layout", [one for one in LAYOUTS if one != "state_dict"])
def test_a_safetensors_file_of_each_layout_gives_the_same(
    layout: str, small: State, tmp_path: Path
) -> None:
    make, key, _ = LAYOUTS[layout]
    content = {name: one.clone() for name, one in flat(make(small)).items()}
    path = save_safetensors(content, tmp_path / "run")
    assert holds(build_encoder(SMALL, weights=path, weights_key=key), small)


def test_a_sharded_checkpoint_may_have_a_prefix(small: State, tmp_path: Path) -> None:
    names, shards = [*prefixed(small, "model.")], ["a.safetensors", "b.safetensors"]
    content = prefixed(small, "model.")
    for at, shard in enumerate(shards):
        part = {name: content[name] for name in names[at::2]}
        save_safetensors(part, tmp_path / shard.removesuffix(".safetensors"))
    where = {name: shards[at % 2] for at, name in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    encoder = build_encoder(SMALL, weights=index)
    assert (encoder.weights_key, holds(encoder, small)) == ("model", True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("predictors", [None, {"colour": 3}])
def test_the_state_dict_of_an_encoder_gives_it_back_with_its_head(
    name: str, predictors: dict[str, int] | None, tmp_path: Path
) -> None:
    source_of(name)
    trained = build_encoder(name, weights=None, predictors=predictors)
    encoder = build_encoder(name, weights=save_zip(trained.state_dict(), tmp_path / "run"))
    assert holds(encoder, trained.backbone.state_dict())
    x = torch.rand(1, *trained.input_shape)
    if trained.head is not None:
        assert encoder.law == trained.law
        own, theirs = encoder.head.state_dict(), trained.head.state_dict()
        assert all(torch.equal(own[key], one) for key, one in theirs.items())
    assert torch.equal(encoder.eval()(x), trained.eval()(x))


def test_what_is_left_out_is_logged(
    small: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_zip(dino(small), tmp_path / "run")
    with caplog.at_level("INFO", "headstrip.factory"):
        build_encoder(SMALL, weights=path, weights_key="teacher")
    said = next(one for one in caplog.messages if "does not use" in one)
    assert f"student ({len(small) + 2})" in said
    assert "teacher.module (2)" in said


def test_a_manifest_says_which_state_dict_and_rebuilds_the_encoder(
    small: State, tmp_path: Path
) -> None:
    path = save_zip(moco(small), tmp_path / "run")
    encoder = build_encoder(SMALL, weights=path, weights_key="encoder_q")
    manifest = encoder.manifest()
    assert manifest["weights"]["key"] == "state_dict.module.encoder_q"
    again = build_encoder(manifest, weights=path)
    assert again.fingerprint == encoder.fingerprint
    with pytest.raises(ValueError, match="states weights_key already"):
        build_encoder(manifest, weights=path, weights_key="encoder_k")


def test_a_manifest_of_an_earlier_version_has_no_key(small: State, tmp_path: Path) -> None:
    path = save_zip(small, tmp_path / "run")
    manifest = build_encoder(SMALL, weights=path).manifest()
    del manifest["weights"]["key"]
    assert holds(build_encoder(manifest, weights=path), small)


def test_a_key_that_the_file_does_not_have_is_refused(small: State, tmp_path: Path) -> None:
    path = save_zip(moco(small), tmp_path / "run")
    with pytest.raises(WeightsError, match=r"no state dict at weights_key='teacher'.*encoder_q"):
        build_encoder(SMALL, weights=path, weights_key="teacher")


@pytest.mark.parametrize(("key", "why"), [("teacher", "is not a file"), (3, "is a int")])
def test_a_key_needs_a_file_and_is_a_string(key: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        build_encoder(SMALL, weights=None, weights_key=key)


parts = st.text("abcdefgh_", min_size=1, max_size=6)
prefixes = st.lists(parts, max_size=3).map(lambda names: "".join(f"{name}." for name in names))
wheres = st.tuples(st.lists(parts, max_size=2), prefixes)


def placed(content: dict[str, Any], keys: list[str], prefix: str, state: State) -> bool:
    """Put a state dict under keys and a prefix, unless something else is in its way."""
    for key in keys:
        if any(isinstance(one, torch.Tensor) for one in content.values()):
            return False
        content = content.setdefault(key, {})
    names = {f"{prefix}{name}" for name in state}
    if content.keys() & names or any(isinstance(one, dict) for one in content.values()):
        return False
    content.update({f"{prefix}{name}": one for name, one in state.items()})
    return True


@settings(deadline=None, max_examples=40)
@given(places=st.lists(wheres, min_size=1, max_size=3, unique_by=str))
def test_a_fit_is_found_if_and_only_if_it_is_unique(places: list[Any], tmp_path_factory) -> None:
    torch.manual_seed(0)
    state = {**build_encoder("squeezenet1_1", weights=None).backbone.state_dict()}
    content: dict[str, Any] = {}
    copies = [{name: one + at for name, one in state.items()} for at in range(len(places))]
    kept = [
        (*place, copy)
        for place, copy in zip(places, copies, strict=True)
        if placed(content, *place, copy)
    ]
    assume(kept)
    path = save_zip(content, tmp_path_factory.mktemp("run") / "x")
    if len(kept) == 1:
        keys, prefix, copy = kept[0]
        encoder = build_encoder("squeezenet1_1", weights=path)
        assert holds(encoder, copy)
        assert encoder.weights_key == ".".join([*keys, *prefix.split(".")[:-1]])
    else:
        with pytest.raises(WeightsError, match=f"holds {len(kept)} state dicts that fit"):
            build_encoder("squeezenet1_1", weights=path)
