"""What a backbone shows when it is built, whatever its row claims."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headstrip.errors import PluginError
from headstrip.factory.measure import measure
from headstrip.registry.registry import get_registry


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "regnet_y_400mf", "r3d_18"])
def test_a_wrong_claim_is_corrected_and_a_right_one_stays(name):
    spec, _ = get_registry().resolve(name)
    assert measure(spec) == spec
    assert measure(replace(spec, dim=1, params=1, law="headless")) == spec


def test_options_of_the_default_weights_apply_and_the_callers_over_them():
    spec, _ = get_registry().resolve("vit_h_14")
    assert measure(spec).input_shape == (3, 518, 518)
    assert measure(spec, {"image_size": 224}).input_shape == (3, 224, 224)


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf"])
def test_the_generator_does_not_move(name):
    spec, _ = get_registry().resolve(name)
    before = torch.get_rng_state()
    measure(spec)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "name",
    ["shufflenet_v2_x0_5", "convnext_tiny", "vit_b_32", "maxvit_t", "regnet_y_400mf", "r3d_18"],
)
def test_sizes_and_maps_in_the_catalog_are_those_of_the_network(name):
    spec, _ = get_registry().resolve(name)
    bare = replace(spec, sizes=None, channels=(), strides=())
    assert measure(bare, sizes=True, maps=True) == spec


def test_what_cannot_be_built_is_a_sentence():
    spec, _ = get_registry().resolve("resnet18")
    with pytest.raises(PluginError, match="in build_model for 'torchvision:resnet18'"):
        measure(spec, {"no_such_argument": 1})
