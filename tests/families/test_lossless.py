"""headstrip removes the head of torchvision's classifiers without losing anything."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from tests.sampling import LARGEST
from torch import nn
from torchvision import models

from headstrip import build_encoder, strip_head
from headstrip.registry.registry import get_registry

_TOOL = Path(__file__).parents[2] / "tools" / "lossless.py"
_SPEC = importlib.util.spec_from_file_location("lossless", _TOOL)
lossless = importlib.util.module_from_spec(_SPEC)
# Dataclasses look up their module by name.
sys.modules["lossless"] = lossless
_SPEC.loader.exec_module(lossless)

# The most used families, and each way in which a head is placed. The slow tests cover all networks
# of up to 90 million parameters, and `tools/lossless.py` covers all 89.
LIGHT = {
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vgg11",
    "vit_b_32",
}
SIZES = {spec.name: spec.params for spec in get_registry().specs() if spec.source == "torchvision"}
NAMES = [name for name in lossless.names(["*"]) if name in LIGHT or SIZES[name] < LARGEST]


def _marked(name):
    return pytest.param(name, marks=() if name in LIGHT else pytest.mark.slow)


@pytest.mark.parametrize("name", [_marked(name) for name in NAMES])
def test_the_kept_head_computes_the_logits_of_an_untouched_network(name, tmp_path):
    proof = lossless.prove(name, tmp_path)
    assert proof.equal, "head(encoder(x)) is not bitwise what the untouched network gives"
    assert proof.finite
    assert proof.differ
    assert proof.dim == proof.claimed
    assert proof.law == ("declared" if name.startswith("squeezenet") else "exact")


def test_most_families_are_proven_in_the_default_run():
    specs = [spec for spec in get_registry().specs() if spec.source == "torchvision"]
    families, everything = (
        {spec.family for spec in specs if spec.name in names} for names in (LIGHT, NAMES)
    )
    assert {"convnext", "resnet", "vgg", "vit"} <= families <= everything
    assert len(families) >= 12


def test_a_wrong_pooling_fails_the_proof(tmp_path, monkeypatch):
    original = lossless.build_encoder

    def with_max_pooling(*arguments, **keywords):
        encoder = original(*arguments, **keywords)
        encoder.backbone.avgpool = nn.AdaptiveMaxPool2d(1)
        return encoder

    monkeypatch.setattr(lossless, "build_encoder", with_max_pooling)
    assert not lossless.prove("resnet18", tmp_path).lossless


class Scaled(nn.Module):
    def forward(self, x):
        return x * 1.5


@pytest.mark.slow
def test_a_head_of_zeros_passes_unless_perturbed(tmp_path, monkeypatch):
    # torchvision's new ViT heads are zero: they compute the same logits from any embedding.
    original = lossless.build_encoder

    def with_wrong_embedding(*arguments, **keywords):
        encoder = original(*arguments, **keywords)
        encoder.backbone.heads = Scaled()
        return encoder

    monkeypatch.setattr(lossless, "build_encoder", with_wrong_embedding)
    assert not lossless.prove("vit_b_32", tmp_path).equal
    monkeypatch.setattr(lossless, "perturb", lambda model: None)
    proof = lossless.prove("vit_b_32", tmp_path)
    assert proof.equal
    assert not proof.differ


@pytest.mark.parametrize(
    ("name", "path", "head"),
    [
        ("vgg11", "classifier.6", nn.Linear),
        ("resnet18", "fc", nn.Linear),
        ("vit_b_32", "heads", nn.Sequential),
        ("convnext_tiny", "classifier.2", nn.Linear),
    ],
)
def test_an_identity_replaces_the_head(name, path, head):
    encoder = build_encoder(name, weights=None)
    assert isinstance(encoder.backbone.get_submodule(path), nn.Identity)
    assert isinstance(encoder.head, head)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_never_reach_the_output_in_any_mode(name):
    encoder = build_encoder(name, weights=None)
    x = torch.randn(2, *encoder.input_shape)
    for mode in (True, False):
        output = encoder.train(mode)(x)
        assert isinstance(output, torch.Tensor)
        assert output.shape == (2, encoder.output_dim)
    assert not any(key.lower().startswith("backbone.aux") for key in encoder.state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_strip_head_removes_auxiliary_heads_too(name):
    model = models.get_model(name, weights=None, init_weights=False, aux_logits=True)
    parts = strip_head(model, family=name.partition("_")[0])
    assert parts.backbone is model
    assert len(parts.paths) > 1
    assert not any(key.lower().startswith("aux") for key in model.state_dict())
    assert isinstance(model.train()(torch.randn(2, 3, 299, 299)), torch.Tensor)


def test_squeezenet_has_the_law_declared_and_no_head():
    encoder = build_encoder("squeezenet1_1", weights=None)
    assert (encoder.law, encoder.head, encoder.output_dim) == ("declared", None, 512)


def test_the_reference_of_squeezenet_equals_its_embedding():
    torch.manual_seed(0)
    untouched = models.squeezenet1_1().eval()
    x = torch.randn(2, 3, 64, 64)
    plugin, family = get_registry().stripper("squeezenet")
    expected = plugin.call("reference", "squeezenet1_1", model=untouched, x=x, family=family)
    parts = strip_head(untouched, family="squeezenet")
    assert torch.equal(parts.backbone(x), expected)


@pytest.mark.slow
def test_s3d_matches_its_network_within_rounding_for_longer_clips():
    torch.manual_seed(0)
    untouched = models.video.s3d()
    lossless.perturb(untouched)
    untouched.eval()
    x = torch.randn(1, 3, 32, 224, 224)
    with torch.inference_mode():
        expected = untouched(x)
        parts = strip_head(untouched, family="s3d")
        found = parts.head(parts.backbone(x))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
