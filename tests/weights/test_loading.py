"""headstrip loads exactly the tensors of a file, or refuses a file that does not fit."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.weights.files import State, save_legacy, save_safetensors, save_zip, sha256_of, state_of
from torch import nn
from torchvision import models

from headstrip import Encoder, HeadNotFoundError, WeightsEntry, WeightsError, build_encoder
from headstrip.families.vit import plugin as vit
from headstrip.network.state_dicts import compare, copy_into, refuse_unfilled

Save = Callable[[object, Path], Path]
NAME = "shufflenet_v2_x0_5"


def holds(encoder: Encoder, state: State, *, head: str = "fc") -> bool:
    """Return whether backbone and head together have exactly the tensors of a file."""
    own = encoder.backbone.state_dict()
    if encoder.head is not None:
        own |= {f"{head}.{key}": value for key, value in encoder.head.state_dict().items()}
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def without(state: State, *parts: str) -> State:
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


def test_each_file_format_loads_into_the_encoder(
    save: Save, tmp_path: Path, shufflenet: State
) -> None:
    path = save(shufflenet, tmp_path / "own")
    encoder = build_encoder(NAME, weights=path)
    assert holds(encoder, shufflenet)
    assert encoder.weights_sha256 == sha256_of(path)


@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model_state_dict", "model", "net", "network", "module", "ema"]
)
def test_a_wrapped_state_dict_loads_into_the_encoder(
    tmp_path: Path, shufflenet: State, wrapper: str
) -> None:
    path = save_zip({wrapper: shufflenet, "epoch": 90}, tmp_path / "own")
    assert holds(build_encoder(NAME, weights=path), shufflenet)


@pytest.mark.parametrize("wrapper", ["net", "module", "ema", "model_ema", "state_dict_ema"])
def test_torchvision_and_timm_find_weights_under_the_same_keys(
    tmp_path: Path, wrapper: str
) -> None:
    pytest.importorskip("headstrip_timm")
    for name in ("torchvision:resnet18", "timm:resnet18"):
        state = {**build_encoder(name, weights=None).backbone.state_dict()}
        path = save_zip({wrapper: state}, tmp_path / "x")
        assert holds(build_encoder(name, weights=path), state)


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda state: {"teacher": state, "epoch": 3}, "teacher"),
        (lambda state: {"a": {"b": state}}, "a.b"),
        (lambda state: {"teacher": state, "student": dict(state)}, "teacher"),
    ],
)
def test_a_state_dict_under_any_key_of_a_checkpoint_is_found(
    tmp_path: Path, shufflenet: State, wrap: Callable[[State], Any], key: str
) -> None:
    path = save_zip(wrap(shufflenet), tmp_path / "own")
    encoder = build_encoder(NAME, weights=path)
    assert encoder.weights_key == key
    assert holds(encoder, shufflenet)


def test_the_error_names_an_entry_that_is_not_a_tensor(tmp_path: Path, shufflenet: State) -> None:
    path = save_zip({**shufflenet, "epoch": 3}, tmp_path / "own")
    with pytest.raises(WeightsError, match=r"with something else in it: 'epoch' is an int\. Save"):
        build_encoder(NAME, weights=path)


def test_loading_weights_draws_no_numbers_from_the_global_generator(
    tmp_path: Path, shufflenet: State
) -> None:
    path = save_zip(shufflenet, tmp_path / "own")
    torch.manual_seed(3)
    build_encoder(NAME, weights=path)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


def test_the_error_names_the_network_of_the_file_and_the_requested_one(
    tmp_path: Path, shufflenet: State
) -> None:
    path = save_zip(shufflenet, tmp_path / "own")
    with pytest.raises(WeightsError) as caught:
        build_encoder("squeezenet1_1", weights=path)
    for part in (str(path), "torchvision:squeezenet1_1", "features.0.weight", f"{NAME!r}: pass"):
        assert part in str(caught.value)


def test_a_file_of_another_variant_of_the_network_is_refused(
    tmp_path: Path, shufflenet: State
) -> None:
    path = save_zip(shufflenet, tmp_path / "own")
    with pytest.raises(WeightsError, match=r"does not fit torchvision:shufflenet_v2_x1_0"):
        build_encoder("shufflenet_v2_x1_0", weights=path)


def test_the_head_takes_its_number_of_classes_from_the_file(save: Save, tmp_path: Path) -> None:
    state = state_of(NAME, num_classes=7)
    encoder = build_encoder(NAME, weights=save(state, tmp_path / "own"))
    untouched = models.get_model(NAME, num_classes=7)
    untouched.load_state_dict(state)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(encoder.logits(x), untouched.eval()(x))
    assert encoder.labels is None


def test_a_file_without_a_head_gives_embeddings_and_no_logits(
    save: Save, tmp_path: Path, shufflenet: State
) -> None:
    state = without(shufflenet, "fc.")
    encoder = build_encoder(NAME, weights=save(state, tmp_path / "own"))
    assert (encoder.law, encoder.head, encoder.labels) == ("headless", None, None)
    assert holds(encoder, state)
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, encoder.output_dim)
    with pytest.raises(HeadNotFoundError, match=r"the weights file has none\. Use the embedding"):
        encoder.logits(torch.rand(2, 3, 64, 64))


def test_an_incompatible_head_is_ignored_and_logged(
    tmp_path: Path, shufflenet: State, caplog: pytest.LogCaptureFixture
) -> None:
    state = without(shufflenet, "fc.") | {
        "fc.0.weight": torch.rand(8, 1024),
        "fc.2.weight": torch.rand(3, 8),
    }
    path = save_zip(state, tmp_path / "own")
    with caplog.at_level("INFO", "headstrip.factory"):
        encoder = build_encoder(NAME, weights=path)
    assert (encoder.law, encoder.head) == ("headless", None)
    assert holds(encoder, without(state, "fc."))
    assert f"headstrip does not use these tensors of {path}: fc (2)" in caplog.messages


def test_a_file_without_batch_counters_can_be_loaded(
    save: Save, tmp_path: Path, shufflenet: State
) -> None:
    state = without(shufflenet, "num_batches_tracked")
    encoder = build_encoder(NAME, weights=save(state, tmp_path / "own"))
    assert (
        without(encoder.backbone.state_dict(), "num_batches_tracked").keys()
        == without(state, "fc.").keys()
    )
    assert torch.equal(encoder.backbone.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_batch_counters_may_be_missing_from_a_file_of_the_newest_version(
    tmp_path: Path, shufflenet: State
) -> None:
    assert isinstance(shufflenet, OrderedDict)
    state = copy.copy(shufflenet)
    for key in shufflenet:
        if key.endswith("num_batches_tracked"):
            del state[key]
    path = save_zip(state, tmp_path / "own")
    assert torch.load(path, weights_only=True)._metadata["conv1.1"]["version"] == 2
    encoder = build_encoder(NAME, weights=path)
    assert torch.equal(encoder.backbone.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


@pytest.mark.parametrize("dropped", ["nothing", "num_batches_tracked"])
def test_mnasnet_loads_with_and_without_module_versions_in_the_file(
    save: Save, tmp_path: Path, dropped: str
) -> None:
    state = state_of("mnasnet0_5")
    for content in (state, without(state, dropped)):
        encoder = build_encoder("mnasnet0_5", weights=save(content, tmp_path / "own"))
        assert torch.equal(
            encoder.backbone.state_dict()["layers.0.weight"], state["layers.0.weight"]
        )


class Versioned(nn.Linear):
    """A layer that stores the version that it receives while loading."""

    _version = 5

    def _load_from_state_dict(self, *args: Any) -> None:
        self.version = args[2].get("version")
        super()._load_from_state_dict(*args)


def test_modules_receive_the_versions_that_the_file_states() -> None:
    state = Versioned(2, 2).state_dict()
    state._metadata[""]["version"] = 3
    for source in (state, {"state_dict": state}):
        model = Versioned(2, 2)
        copy_into(model, dict(state), source)
        assert model.version == 3


@pytest.mark.parametrize("versions", [None, "nonsense"])
def test_modules_use_their_current_version_if_the_file_states_none(versions: object) -> None:
    state = Versioned(2, 2).state_dict()
    state._metadata = versions
    model = Versioned(2, 2)
    copy_into(model, dict(state), state)
    assert model.version == 5
    assert torch.equal(model.weight, state["weight"])


def test_compare_lists_missing_unexpected_and_reshaped_tensors() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {**model.state_dict(), "0.weight": torch.zeros(4, 2), "2.weight": torch.zeros(1)}
    del state["1.bias"], state["1.num_batches_tracked"]
    fit = compare(model, state)
    assert (fit.missing, fit.unexpected, fit.reshaped) == (
        ("1.bias",),
        ("2.weight",),
        ("0.weight",),
    )
    assert fit.outside(("0", "2")) == ("1.bias",)


def test_densenet_loads_files_with_old_tensor_names(tmp_path: Path) -> None:
    state = state_of("densenet121")
    old = {re.sub(r"(layer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): state[key] for key in state}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    encoder = build_encoder("densenet121", weights=save_legacy(old, tmp_path / "own"))
    assert holds(encoder, state, head="classifier")


# The published files of vit_b_16 and similar networks use older names than torchvision.
def test_vit_renames_the_old_tensor_names_of_its_mlp() -> None:
    model = models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=3)
    state = model.state_dict()
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in state.items()
    }
    assert "encoder.layers.encoder_layer_0.mlp.linear_2.bias" in old
    assert compare(model, vit.adapt_state_dict(old, model, None)).names == ()


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", "aux1."), ("inception_v3", "Aux")])
def test_auxiliary_heads_are_ignored_and_transform_input_stays_on(
    name: str, auxiliary: str, hub: Path, published: Callable[..., WeightsEntry]
) -> None:
    state = state_of(name, aux_logits=True, init_weights=False)
    assert any(key.startswith(auxiliary) for key in state)
    url = models.get_model_weights(name).DEFAULT.url
    published(name, sha256=sha256_of(save_zip(state, hub / Path(url).stem)))
    encoder = build_encoder(name)
    assert holds(encoder, without(state, "aux", "Aux"))
    assert encoder.backbone.transform_input is True
    assert encoder.options["transform_input"] is True


def test_weights_with_nan_in_layers_of_the_backbone_are_refused(tmp_path: Path) -> None:
    state = state_of("mobilenet_v3_small")
    for key, value in state.items():
        if key.startswith("classifier."):
            value.fill_(torch.nan)
    path = save_zip(state, tmp_path / "features")
    with pytest.raises(WeightsError, match=r"not finite in 'classifier\.0\.bias' after the"):
        build_encoder("mobilenet_v3_small", weights=path)


def test_a_network_is_refused_only_if_a_value_is_not_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    refuse_unfilled(model, "x.pth")
    model[1].weight.data[1] = torch.inf
    with pytest.raises(WeightsError, match=r"'1\.weight'.*x\.pth.*Choose other weights"):
        refuse_unfilled(model, "x.pth")


@pytest.mark.slow
def test_the_features_only_weights_of_vgg16_are_refused(tmp_path: Path) -> None:
    state = state_of("vgg16")
    for key, value in state.items():
        if key.startswith("classifier."):
            value.fill_(torch.nan)
    path = save_zip(state, tmp_path / "features")
    with pytest.raises(WeightsError, match="Choose other weights"):
        build_encoder("vgg16", weights=f"IMAGENET1K_FEATURES={path}")


def test_default_weights_are_loaded_from_the_cache_of_torch_hub(
    hub: Path, published: Callable[..., WeightsEntry]
) -> None:
    state = state_of("resnet18")
    path = save_legacy(state, hub / "resnet18-f37072fd")
    published("resnet18", sha256=sha256_of(path)[:8])
    encoder = build_encoder("resnet18")
    assert holds(encoder, state)
    assert encoder.weights is not None
    assert encoder.weights.tag == "IMAGENET1K_V1"
    assert encoder.labels is not None
    assert len(encoder.labels) == 1000


def test_a_cached_file_with_a_wrong_hash_is_refused_and_kept(hub: Path, shufflenet: State) -> None:
    path = save_zip(shufflenet, hub / "resnet18-f37072fd")
    with pytest.raises(WeightsError) as caught:
        build_encoder("resnet18")
    for part in (str(path), "the catalog has f37072fd", sha256_of(path)):
        assert part in str(caught.value)
    assert path.exists()


def test_a_cached_file_that_changes_between_two_builds_is_refused(
    hub: Path, published: Callable[..., WeightsEntry], shufflenet: State
) -> None:
    (location,) = published(NAME).locations
    cached = hub / Path(location).stem
    published(NAME, sha256=sha256_of(save_zip(shufflenet, cached)))
    assert holds(build_encoder(NAME), shufflenet)
    save_zip({**shufflenet, "fc.bias": torch.zeros(1000)}, cached)
    with pytest.raises(WeightsError, match="has the sha256"):
        build_encoder(NAME)


def test_a_file_missing_from_cache_and_network_gives_a_clear_error(
    dead_url: str, published: Callable[..., WeightsEntry]
) -> None:
    published(NAME, locations=(f"{dead_url}/x.pth",))
    with pytest.raises(WeightsError, match=rf"'IMAGENET1K_V1' of torchvision:{NAME}\."):
        build_encoder(NAME)


def test_a_users_own_file_gets_the_preprocessing_of_the_named_tag(tmp_path: Path) -> None:
    path = save_safetensors(state_of("resnet50"), tmp_path / "own")
    for tag, resize in (("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232)):
        encoder = build_encoder("resnet50", weights=f"{tag}={path}")
        assert encoder.preprocessing is not None
        assert (encoder.weights and encoder.weights.tag, encoder.preprocessing.resize) == (
            tag,
            resize,
        )
        assert encoder.labels is None
