"""The error for a wrong name suggests similar names, and says how to install more."""

from __future__ import annotations

import re

import pytest
from tests.distributions import catalog_of, install_distribution
from tests.registry.sources import install_source, spec_of

from headstrip import UnknownBackboneError
from headstrip.registry.registry import Registry

PIP = "pip install headstrip-timm"


def message(name, registry=None):
    with pytest.raises(UnknownBackboneError) as caught:
        (registry or Registry()).resolve(name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet51", "resnet50"),
        ("ResNet50", "resnet50"),
        ("torchvision:resnet5", "torchvision:resnet50"),
        ("vit_b16", "vit_b_16"),
        ("torchvision:convnext", "convnext_"),
    ],
)
def test_a_similar_name_is_suggested(site, name, near):
    assert f"There is no backbone {name!r}. Did you mean " in message(name)
    assert near in message(name)


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vgg", "torchvision:vit"])
def test_at_most_three_names_are_suggested(site, name):
    hint = re.search(r"Did you mean (.*?)\?", message(name)).group(1)
    assert len(re.split(", | or ", hint)) == 3


def test_a_name_without_similar_names_points_to_the_list(site):
    assert "`headstrip list` prints all names" in message("qqqqqqqqqqqq")


def test_without_timm_the_error_says_how_to_install_it(site):
    assert PIP in message("mobilenetv4_x")


def test_with_timm_its_names_are_suggested_without_an_install_hint(site):
    install_source(site, "timm", ["mobilenetv4_x"])
    assert "mobilenetv4_x" in message("mobilenetv4_y")
    assert PIP not in message("mobilenetv4_y")


def test_the_error_says_that_an_installed_timm_is_unusable(site):
    install_source(site, "timm", catalog__tsv="not a catalog")
    assert "timm's names are missing: " in message("mobilenetv4_x")
    assert PIP not in message("mobilenetv4_x")
    blocked = Registry(disabled=["timm"])
    assert "timm's names are missing: disabled by" in message("mobilenetv4_x", blocked)


def test_a_qualified_timm_name_says_how_to_install_timm(site):
    assert "There is no source 'timm'" in message("timm:mobilenetv4_x")
    assert PIP in message("timm:mobilenetv4_x")


def test_the_right_source_of_a_backbone_is_suggested(site):
    install_source(site, "acme", ["acmenet"])
    assert "There is no source 'acne'" in message("acne:acmenet")
    assert "Did you mean acme:acmenet?" in message("acne:acmenet")


def test_a_similar_source_is_suggested(site):
    assert "Did you mean torchvision:new_net?" in message("torch-vision:new_net")


def test_a_source_without_similar_ones_lists_the_installed_sources(site):
    assert "Installed sources: torchvision" in message("q:new_net")


def test_disabled_families_are_not_suggested(site):
    assert "vgg" not in message("vg16", Registry(disabled=["vgg"]))


def test_a_bare_name_with_a_slash_suggests_the_source_hf(site):
    files = {"hf_of_a_test/catalog.tsv": catalog_of(spec_of("hf", "vit"))}
    install_distribution(site, "headstrip-transformers", {"hf": "hf_of_a_test"}, files)
    error = message("facebook/dinov2-base@main")
    assert error.endswith(
        "needs its source. A name with a slash is a repository or a folder: "
        "write hf:facebook/dinov2-base@main."
    )
    blocked = Registry(disabled=["hf"])
    assert "The plugin 'hf' cannot be used: disabled by" in message("facebook/dinov2", blocked)


def test_a_bare_name_with_a_slash_says_how_to_install_a_missing_hf(site):
    install_distribution(site, "headstrip-transformers", {}, {})
    error = message("facebook/dinov2-base")
    assert "write hf:facebook/dinov2-base. Install 'hf' with `pip install headstrip-tr" in error


@pytest.mark.parametrize(
    ("source", "distribution"),
    [
        ("timm", "headstrip-timm"),
        ("hf", "headstrip-transformers"),
        ("efficientnet-lite", "headstrip-efficientnet-lite"),
    ],
)
def test_a_missing_source_of_headstrip_suggests_its_distribution(site, source, distribution):
    registry = Registry()
    if source in registry.sources():
        install_distribution(site, distribution, {}, {})
        registry = Registry()
    error = message(f"{source}:some_net", registry)
    assert f"There is no source {source!r}" in error
    assert f"`pip install {distribution}` installs it." in error


def test_an_unknown_source_suggests_no_distribution(site):
    assert "pip install" not in message("xyz:some_net")
