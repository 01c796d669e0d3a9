"""measure() reads the facts of a backbone from its built network, not from its row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headstrip.errors import PluginError
from headstrip.factory.measure import measure
from headstrip.registry.registry import get_registry


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "regnet_y_400mf", "r3d_18"])
def test_measuring_corrects_wrong_values_and_keeps_right_ones(name):
    spec, _ = get_registry().resolve(name)
    assert measure(spec) == spec
    assert measure(replace(spec, dim=1, params=1, law="headless")) == spec


def test_the_callers_options_override_those_of_the_default_weights():
    spec, _ = get_registry().resolve("vit_h_14")
    assert measure(spec).input_shape == (3, 518, 518)
    assert measure(spec, {"image_size": 224}).input_shape == (3, 224, 224)


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf"])
def test_measuring_leaves_the_random_generator_unchanged(name):
    spec, _ = get_registry().resolve(name)
    before = torch.get_rng_state()
    measure(spec)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "name",
    ["shufflenet_v2_x0_5", "convnext_tiny", "vit_b_32", "maxvit_t", "regnet_y_400mf", "r3d_18"],
)
def test_sizes_and_maps_in_the_catalog_match_the_network(name):
    spec, _ = get_registry().resolve(name)
    bare = replace(spec, sizes=None, channels=(), strides=())
    assert measure(bare, sizes=True, maps=True) == spec


def test_a_backbone_that_cannot_be_built_gives_a_clear_error():
    spec, _ = get_registry().resolve("resnet18")
    with pytest.raises(PluginError, match="in build_model for 'torchvision:resnet18'"):
        measure(spec, {"no_such_argument": 1})
