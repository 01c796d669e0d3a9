"""Every set of weights: its locations, its input and classes, and its network."""

from __future__ import annotations

import random

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save
from tests.hub import hub_server, use_hub
from timm.data import ImageNetInfo
from timm.data.config import resolve_data_config
from timm.models import _builder

from headstrip import WeightsError, build_encoder
from headstrip.cli import main
from headstrip.network.meta_ops import without_memory
from headstrip.registry.registry import Registry, get_registry
from headstrip.testing import perturb
from headstrip.testing.states import blocked_network
from headstrip_timm.describe import describe_weights
from headstrip_timm.preprocessing import preprocessing_of

REGISTRY = get_registry()
SPECS = {spec.name: spec for spec in REGISTRY.specs() if spec.source == "timm"}
LISTED = {
    f"{name}.{entry.tag}": entry
    for name, spec in SPECS.items()
    for entry in REGISTRY.listed_weights(spec)
}
OLDER = not SPECS.keys() <= set(timm.list_models())
newest = pytest.mark.skipif(OLDER, reason="the table was written from a newer timm")
# A small network, and its repository on the hub.
SMALL = "mobilenetv3_small_050"
HUB = "timm/mobilenetv3_small_050.lamb_in1k"


def config(name):
    return timm.get_pretrained_cfg(name).to_dict()


def generated(name, **options):
    """A timm network with perturbed values."""
    model = timm.create_model(name, **options).eval()
    perturb(model)
    return model


@newest
def test_the_table_matches_the_installed_timm():
    table = {name: REGISTRY.listed_weights(spec) for name, spec in SPECS.items()}
    assert table == {name: describe_weights(name) for name in SPECS}


@newest
def test_the_table_has_every_set_of_weights_of_timm():
    assert LISTED.keys() == {name for name in timm.list_pretrained() if "." in name}


@newest
def test_classes_size_licence_and_preprocessing_match_timms_configs():
    for name, entry in LISTED.items():
        stated = config(name)
        assert entry.num_classes == (stated["num_classes"] or None)
        assert entry.input_shape == tuple(stated["input_size"])
        assert entry.license == stated.get("license")
        resolved = resolve_data_config(pretrained_cfg=stated, verbose=False)
        assert entry.preprocessing == preprocessing_of(resolved)


@newest
def test_the_hub_comes_before_the_url():
    for name, entry in LISTED.items():
        stated = config(name)
        places = [f"hf:{stated['hf_hub_id']}"] if stated.get("hf_hub_id") else []
        if stated.get("hf_hub_filename"):
            places = [f"{places[0]}/{stated['hf_hub_filename']}"]
        if stated.get("url") and not stated.get("custom_load"):
            places.append(stated["url"])
        assert entry.locations == tuple(places)
        assert places


def test_only_files_that_are_only_at_a_url_have_a_hash():
    stated = {name: entry for name, entry in LISTED.items() if entry.sha256}
    assert stated
    for entry in stated.values():
        (location,) = entry.locations
        assert location.rpartition(".")[0].endswith(f"-{entry.sha256}")


@newest
def test_the_default_weights_match_timms_and_come_first():
    for name, spec in SPECS.items():
        tags = [entry.tag for entry in REGISTRY.listed_weights(spec)]
        default = timm.get_pretrained_cfg(name)
        assert spec.default_weights == (tags[0] if tags else None)
        if tags and default.tag in tags:
            assert tags[0] == default.tag


def test_the_options_of_each_set_of_weights_name_its_tag():
    assert all(dict(e.options)["pretrained_cfg"] == e.tag for e in LISTED.values())


def test_weights_with_imagenet_classes_have_labels():
    labelled = {name for name, entry in LISTED.items() if entry.labels}
    assert {LISTED[name].num_classes for name in labelled} == {1000}
    assert all("in1k" in name.partition(".")[2] for name in labelled)
    assert len(labelled) > 1000
    assert "resmlp_12_224.fb_dino" not in labelled


def test_the_labels_have_the_order_of_timms_classes():
    labels = REGISTRY.labels(SPECS[SMALL], LISTED[f"{SMALL}.lamb_in1k"])
    info = ImageNetInfo("imagenet-1k")
    words = [info.index_to_description(index).lower().split(", ") for index in range(1000)]
    other = {
        index: label for index, label in enumerate(labels) if label.lower() not in words[index]
    }
    # Other classes have the names "crane" and "maillot".
    assert other == {134: "crane bird", 639: "maillot tank suit"}


def pretrained_twin(name, entry, monkeypatch):
    """The network that timm builds for pretrained weights, without loading them."""
    monkeypatch.setattr(_builder, "load_pretrained", lambda *_, **__: None)
    with without_memory():
        return timm.create_model(name, pretrained=True, pretrained_cfg=entry.tag)


@newest
@pytest.mark.parametrize("name", ["fbnetc_100.rmsp_in1k", *random.Random(5).sample([*LISTED], 15)])
def test_options_build_the_network_that_timm_builds_for_the_weights(name, monkeypatch):
    """FBNet, for example, has another epsilon in its norms with pretrained weights."""
    architecture, entry = name.partition(".")[0], LISTED[name]
    with without_memory():
        ours = timm.create_model(architecture, **dict(entry.options))
    assert repr(ours) == repr(pretrained_twin(architecture, entry, monkeypatch))


@pytest.mark.parametrize(
    ("name", "classes", "shape"),
    [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 1000, (3, 224, 224)),
        ("vit_tiny_patch16_224.augreg_in21k", 21843, (3, 224, 224)),
        ("mobilenetv3_large_100.miil_in21k", 11221, (3, 224, 224)),
        ("mobilenetv4_conv_small.e3600_r256_in1k", 1000, (3, 256, 256)),
        ("mobilenetv4_conv_small.e2400_r224_in1k", 1000, (3, 224, 224)),
    ],
)
def test_a_tag_has_its_own_classes_and_input(name, classes, shape, tmp_path):
    architecture, _, tag = name.partition(".")
    if OLDER and name not in timm.list_pretrained():
        pytest.skip("this timm has not this set of weights")
    model = timm.create_model(architecture, pretrained_cfg=tag)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    encoder = build_encoder(f"timm:{name}", weights=f"{tag}={tmp_path / 'file.pth'}")
    assert encoder.head.out_features == classes
    assert encoder.input_shape == shape == encoder.preprocessing.input_shape
    assert encoder.weights == LISTED[name]


@torch.no_grad()
def test_a_tag_without_classes_builds_an_encoder_without_a_head(tmp_path):
    """The published file also lacks the last norm, which keeps its initial values in timm."""
    model = generated("convnextv2_atto", pretrained_cfg="fcmae")
    torch.nn.init.ones_(model.head.norm.weight)
    torch.nn.init.zeros_(model.head.norm.bias)
    state = {key: value for key, value in model.state_dict().items() if "head." not in key}
    torch.save(state, tmp_path / "file.pth")
    encoder = build_encoder("timm:convnextv2_atto", weights=f"fcmae={tmp_path / 'file.pth'}")
    x = torch.randn(2, 3, 64, 64)
    assert (encoder.law, encoder.head) == ("headless", None)
    assert torch.equal(encoder(x), model(x))


def test_a_tag_in_options_applies_to_random_weights():
    encoder = build_encoder(
        "timm:vit_tiny_patch16_224", weights=None, options={"pretrained_cfg": "augreg_in21k"}
    )
    assert encoder.head.out_features == 21843


@pytest.fixture(scope="module")
def published():
    """A network, and the hub repository with its weights."""
    model = generated(SMALL)
    return model, {HUB: {"model.safetensors": save(model.state_dict())}}


@torch.no_grad()
def test_weights_are_downloaded_from_the_hub_once_and_then_cached(published, monkeypatch, tmp_path):
    model, repositories = published
    asked, x = [], torch.randn(2, 3, 64, 64)
    with hub_server(repositories, asked=asked) as url:
        use_hub(monkeypatch, url, tmp_path / "hub")
        encoder = build_encoder(f"timm:{SMALL}")
    assert torch.equal(encoder.head(encoder(x)), model(x))
    assert any(f"/{HUB}/resolve/main/model.safetensors" in request for request in asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with blocked_network() as tried:
        again = build_encoder(f"timm:{SMALL}.lamb_in1k")
    assert not tried
    assert torch.equal(again(x), encoder(x))
    assert again.labels[:2] == ("tench", "goldfish")


@torch.no_grad()
def test_the_file_at_the_url_is_used_if_the_hub_is_unreachable(monkeypatch, tmp_path):
    model = generated("tinynet_e")
    url = LISTED["tinynet_e.in1k"].locations[1]
    target = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    target.parent.mkdir(parents=True)
    torch.save(model.state_dict(), target)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing here"))
    with blocked_network() as tried:
        encoder = build_encoder("timm:tinynet_e")
    x = torch.randn(2, 3, 64, 64)
    assert not tried
    assert torch.equal(encoder.head(encoder(x)), model(x))


def test_a_file_that_does_not_match_the_hash_in_its_url_is_refused(
    published, monkeypatch, tmp_path
):
    url = LISTED[f"{SMALL}.lamb_in1k"].locations[1]
    target = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    target.parent.mkdir(parents=True)
    torch.save(published[0].state_dict(), target)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing here"))
    with pytest.raises(WeightsError, match=r"but the file name has 4b7bbe87\..*repair"):
        build_encoder(f"timm:{SMALL}")


def test_weights_that_cannot_be_found_give_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")
    with pytest.raises(WeightsError, match=rf"'lamb_in1k' of timm:{SMALL}\. "):
        build_encoder(f"timm:{SMALL}")


def test_random_weights_listing_and_showing_use_no_network():
    with blocked_network() as tried:
        encoder = build_encoder(f"timm:{SMALL}", weights=None)
        registry = Registry()
        assert all(registry.listed_weights(spec) for spec in registry.specs()[:3])
        for arguments in (["list", "timm:mobilenetv3*"], ["show", f"timm:{SMALL}"]):
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0
            assert SMALL in result.output
    assert not tried
    assert encoder.output_dim == 1024
