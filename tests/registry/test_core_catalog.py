"""The core's catalog matches the installed torchvision completely and exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.sampling import mostly_slow
from tools.refresh_catalog import live_families, live_labels, live_spec, live_specs, live_weights
from torchvision import models

from headstrip.registry.registry import Registry

IMAGES = models.list_models(module=models)
VIDEOS = models.list_models(module=models.video)
SPECS = {spec.name: spec for spec in Registry().specs() if spec.source == "torchvision"}
LIGHT = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_v2_t",
    "vgg11",
    "vit_b_32",
    "inception_v3",
    "r3d_18",
)
VIDEO_WIDTHS = {
    "r3d_18": 512,
    "mc3_18": 512,
    "r2plus1d_18": 512,
    "s3d": 1024,
    "mvit_v1_b": 768,
    "mvit_v2_s": 768,
    "swin3d_t": 768,
    "swin3d_s": 768,
    "swin3d_b": 1024,
}


def reference():
    """Read the measured width and the input size of each classifier."""
    path = Path(__file__).parents[1] / "families" / "torchvision_dims.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines() if line[0] != "#"]
    return {name: (int(dim), int(size)) for name, dim, size in rows}


def test_the_catalog_has_exactly_the_classifiers_of_torchvision():
    assert SPECS.keys() == {*IMAGES, *VIDEOS}
    assert {name for name, spec in SPECS.items() if spec.task == "video"} == set(VIDEOS)


def test_widths_of_image_backbones_match_those_of_a_forward_pass():
    widths = {name: dim for name, (dim, _) in reference().items()}
    assert {name: SPECS[name].dim for name in IMAGES} == widths


def test_widths_of_video_backbones_match_their_papers():
    assert {name: SPECS[name].dim for name in VIDEOS} == VIDEO_WIDTHS


def test_input_shapes_match_the_default_weights():
    sizes = {name: (3, size, size) for name, (_, size) in reference().items()}
    assert {name: SPECS[name].input_shape for name in IMAGES} == sizes


@pytest.mark.parametrize("name", [*IMAGES, *VIDEOS])
def test_parameter_counts_and_default_weights_match_torchvision(name):
    default = models.get_model_weights(name).DEFAULT
    # headstrip builds Inception without its auxiliary head, which torchvision counts.
    stated = 23_834_568 if name == "inception_v3" else default.meta["num_params"]
    assert (SPECS[name].default_weights, SPECS[name].params) == (default.name, stated)


def test_weights_match_the_installed_torchvision_with_the_default_first():
    registry = Registry()
    listed = [(name, entry) for name in SPECS for entry in registry.weights(SPECS[name])]
    assert listed == live_weights(list(SPECS.values()))


def test_every_set_of_weights_of_torchvision_has_its_url():
    registry = Registry()
    listed = {
        (name, entry.tag): entry.locations
        for name in SPECS
        for entry in registry.weights(SPECS[name])
    }
    assert listed == {
        (name, member.name): (member.url,)
        for name in SPECS
        for member in models.get_model_weights(name)
    }


def test_labels_match_the_installed_torchvision():
    registry = Registry()
    found = {
        entry.labels: registry.labels(spec, entry)
        for spec in SPECS.values()
        for entry in registry.weights(spec)
        if entry.labels
    }
    assert found == live_labels()


@pytest.mark.parametrize("name", mostly_slow(LIGHT))
def test_a_catalog_row_matches_the_built_network(name):
    [live] = [spec for family in live_families() if (spec := live_spec(family, name))]
    assert live == SPECS[name]


@pytest.mark.slow
def test_the_whole_catalog_matches_the_built_networks():
    assert live_specs() == list(SPECS.values())
