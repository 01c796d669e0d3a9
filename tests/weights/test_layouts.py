"""headstrip finds the state dict in a checkpoint of any layout, and never guesses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.sampling import mostly_slow
from tests.weights.files import State, save_zip
from tests.weights.layouts import FORMATS, LAYOUTS, dino, holds, moco
from tools.checkpoint_layouts import ARCHITECTURES, Source, checkpoints, outcome, source_of

from headstrip import WeightsError, build_encoder

SMALL_DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NAMES = {"squeezenet1_1": {}, "timm:test_vit": {}, "hf:dinov2": SMALL_DINO}
SMALL = "shufflenet_v2_x0_5"


def needs(name: str) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("headstrip_transformers")


@pytest.fixture(scope="module", params=NAMES)
def source(request: pytest.FixtureRequest) -> Source:
    needs(request.param)
    return source_of(request.param, NAMES[request.param])


@pytest.fixture(scope="module")
def small() -> State:
    return source_of(SMALL).body


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_encoder_gets_the_exact_tensors_from_every_layout(
    layout: str, source: Source, tmp_path: Path
) -> None:
    made = LAYOUTS[layout]
    path = save_zip(made.make(source.state if made.has_head else source.body), tmp_path / "run")
    encoder = build_encoder(
        source.name, weights=path, weights_key=made.key, options=source.options or None
    )
    assert holds(encoder, source.body)
    # timm removes the "module." prefix itself.
    assert encoder.weights_key in (made.place, made.place.removesuffix(".module"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layout_gives_the_same_tensors_as_the_library(name: str, tmp_path: Path) -> None:
    needs(name)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = source_of(name, ARCHITECTURES[name])
    # tools/checkpoint_layouts.py tests each layout in each format for the committed table.
    for (title, content, layout), form in zip(
        checkpoints(whole, folder), itertools.cycle(FORMATS), strict=False
    ):
        assert outcome(whole, content, layout, form, folder) == "equal", (title, form)


@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.key])
def test_two_fitting_state_dicts_are_refused_with_a_weights_key_that_works(
    layout: str, small: State, tmp_path: Path
) -> None:
    path = save_zip(LAYOUTS[layout].make(small), tmp_path / "run")
    with pytest.raises(WeightsError, match="holds 2 state dicts that fit") as caught:
        build_encoder(SMALL, weights=path)
    key = str(caught.value).partition("weights_key='")[2].partition("'")[0]
    assert build_encoder(SMALL, weights=path, weights_key=key).weights_key


@pytest.mark.parametrize("form", mostly_slow(["safetensors", "sharded"], every=2))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_safetensors_files_of_each_layout_give_the_same_tensors(
    layout: str, form: str, small: State, tmp_path: Path
) -> None:
    path = FORMATS[form](LAYOUTS[layout].make(small), tmp_path)
    assert holds(build_encoder(SMALL, weights=path, weights_key=LAYOUTS[layout].key), small)


@pytest.mark.parametrize("predictors", [None, {"colour": 3}])
def test_the_state_dict_of_an_encoder_restores_it_with_its_head(
    source: Source, predictors: dict[str, int] | None, tmp_path: Path
) -> None:
    name, options = source.name, source.options or None
    trained = build_encoder(name, weights=None, predictors=predictors, options=options)
    path = save_zip(trained.state_dict(), tmp_path / "run")
    encoder = build_encoder(name, weights=path, options=options)
    x = torch.rand(1, *trained.input_shape)
    if trained.head is not None:
        assert encoder.law == trained.law
        own, theirs = encoder.head.state_dict(), trained.head.state_dict()
        assert all(torch.equal(own[key], one) for key, one in theirs.items())
    assert torch.equal(encoder.eval()(x), trained.eval()(x))


def test_unused_tensors_are_logged(
    small: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_zip(dino(small), tmp_path / "run")
    with caplog.at_level("INFO", "headstrip.factory"):
        build_encoder(SMALL, weights=path, weights_key="teacher")
    message = next(one for one in caplog.messages if "does not use" in one)
    assert f"student ({len(small) + 2})" in message
    assert "teacher.module.head (2)" in message


def test_a_manifest_names_the_state_dict_and_rebuilds_the_encoder(
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


def test_a_manifest_without_a_weights_key_still_builds_the_encoder(
    small: State, tmp_path: Path
) -> None:
    path = save_zip(small, tmp_path / "run")
    manifest = build_encoder(SMALL, weights=path).manifest()
    del manifest["weights"]["key"]
    assert holds(build_encoder(manifest, weights=path), small)


def test_a_weights_key_that_the_file_lacks_is_refused(small: State, tmp_path: Path) -> None:
    path = save_zip(moco(small), tmp_path / "run")
    with pytest.raises(WeightsError, match=r"no state dict at weights_key='teacher'.*encoder_q"):
        build_encoder(SMALL, weights=path, weights_key="teacher")


@pytest.mark.parametrize(("key", "why"), [("teacher", "is not a file"), (3, "is an int")])
def test_a_weights_key_must_be_a_string_and_needs_a_file(key: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        build_encoder(SMALL, weights=None, weights_key=key)


def test_the_error_names_a_chosen_state_dict_that_does_not_fit(
    small: State, tmp_path: Path
) -> None:
    path = save_zip({"model": small, "teacher": {"w": torch.zeros(3)}}, tmp_path / "run")
    with pytest.raises(WeightsError, match=r"The state dict 'teacher' in .* does not fit"):
        build_encoder(SMALL, weights=path, weights_key="teacher")


def test_a_weights_key_may_name_a_prefix_that_the_plugin_removes(tmp_path: Path) -> None:
    whole = source_of("timm:test_vit")
    path = save_zip(LAYOUTS["DDP"].make(whole.state), tmp_path / "run")
    assert holds(build_encoder(whole.name, weights=path, weights_key="module"), whole.body)


def test_two_networks_are_refused_even_if_the_plugin_removes_their_prefix(tmp_path: Path) -> None:
    whole = source_of("timm:test_vit").state
    both = {**whole, **{f"module.{name}": one + 1 for name, one in whole.items()}}
    with pytest.raises(WeightsError, match="holds 2 state dicts that fit"):
        build_encoder("timm:test_vit", weights=save_zip(both, tmp_path / "run"))


def test_a_headless_network_ignores_the_head_in_the_file(tmp_path: Path) -> None:
    needs("hf:dinov2")
    whole = source_of("hf:dinov2", SMALL_DINO)
    state = {f"dinov2.{name}": one for name, one in whole.body.items()}
    path = save_zip({**state, "classifier.weight": torch.zeros(3, 32)}, tmp_path / "run")
    encoder = build_encoder(whole.name, weights=path, options=SMALL_DINO)
    assert (encoder.law, encoder.weights_key) == ("headless", "dinov2")
    assert holds(encoder, whole.body)


parts = st.text("abcdefgh_", min_size=1, max_size=6)
prefixes = st.lists(parts, max_size=3).map(lambda names: "".join(f"{name}." for name in names))
wheres = st.tuples(st.lists(parts, max_size=2), prefixes)


def placed(content: dict[str, Any], keys: list[str], prefix: str, state: State) -> bool:
    """Put a state dict under keys and a prefix, and return False if they are already in use."""
    for key in keys:
        if any(isinstance(one, torch.Tensor) for one in content.values()):
            return False
        content = content.setdefault(key, {})
    names = {f"{prefix}{name}" for name in state}
    if content.keys() & names or any(isinstance(one, dict) for one in content.values()):
        return False
    content.update({f"{prefix}{name}": one for name, one in state.items()})
    return True


@pytest.fixture(scope="module")
def copies() -> list[State]:
    """State dicts of one network with different values; each tensor is one number, expanded."""
    shapes = build_encoder("squeezenet1_1", weights=None).backbone.state_dict()
    return [
        {name: torch.tensor(float(at)).expand(one.shape) for name, one in shapes.items()}
        for at in range(3)
    ]


@settings(deadline=None, max_examples=15)
@given(places=st.lists(wheres, min_size=1, max_size=3, unique_by=str))
def test_a_fitting_state_dict_is_used_only_if_it_is_unique(
    places: list[Any], copies: list[State], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content: dict[str, Any] = {}
    kept = [
        (*place, copy)
        for place, copy in zip(places, copies, strict=False)
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


def test_a_single_shard_is_refused_with_the_name_of_its_index(small: State, tmp_path: Path) -> None:
    part = dict([*small.items()][: len(small) // 2 + 20])
    path = save_zip(part, tmp_path / "model-00001-of-00002")
    with pytest.raises(WeightsError, match=r"It is one of several files.*index\.json"):
        build_encoder(SMALL, weights=path)


def test_the_error_names_a_state_dict_that_also_contains_other_values(
    small: State, tmp_path: Path
) -> None:
    path = save_zip({"best": {**small, "epoch": 3}}, tmp_path / "run")
    with pytest.raises(WeightsError, match=r"at content\['best'\], and other things"):
        build_encoder(SMALL, weights=path)


def test_a_head_without_classes_is_refused(tmp_path: Path) -> None:
    state = source_of("resnet18").body
    state = {**state, "fc.weight": torch.zeros(0, 512), "fc.bias": torch.zeros(0)}
    with pytest.raises(WeightsError, match="has 0 classes"):
        build_encoder("resnet18", weights=save_zip(state, tmp_path / "run"))
