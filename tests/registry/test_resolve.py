"""The meaning of names: first torchvision, then timm, and other sources with a prefix."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.registry.sources import install_source

from headstrip import PluginError, UnknownBackboneError
from headstrip.registry.registry import Registry, get_registry, use_registry


@pytest.fixture
def registry(site):
    install_source(site, "timm", ["resnet50", "mobilenetv4_x", "org/model"])
    install_source(site, "acme", ["resnet50", "acmenet", "acmenet_large"])
    return Registry()


def meaning(registry, name):
    return registry.resolve(name)[0].qualified_name


def test_a_bare_name_in_torchvision_and_timm_means_torchvisions(registry):
    assert meaning(registry, "resnet50") == "torchvision:resnet50"


def test_a_bare_name_that_torchvision_lacks_means_timms(registry):
    assert meaning(registry, "mobilenetv4_x") == "timm:mobilenetv4_x"
    assert meaning(registry, "org/model") == "timm:org/model"


@pytest.mark.parametrize("source", ["torchvision", "timm", "acme"])
def test_a_qualified_name_means_the_backbone_of_that_source(registry, source):
    assert meaning(registry, f"{source}:resnet50") == f"{source}:resnet50"


def test_resolving_returns_the_tag_with_the_backbone(registry):
    spec, parts = registry.resolve("timm:resnet50.a1_in1k")
    assert (spec.source, parts.tag) == ("timm", "a1_in1k")


def test_the_error_for_a_bare_name_of_another_source_has_the_qualified_name(registry):
    with pytest.raises(UnknownBackboneError) as caught:
        registry.resolve("acmenet")
    assert str(caught.value) == "The name 'acmenet' needs its source. Write acme:acmenet."


def test_the_error_for_a_bare_name_of_several_sources_lists_each(site):
    for source in ("acme", "lab"):
        install_source(site, source, ["net"])
    with pytest.raises(UnknownBackboneError, match="Write acme:net or lab:net"):
        Registry().resolve("net")


def test_installing_sources_changes_no_existing_name(site):
    before = {spec.name: spec for spec in Registry().specs() if spec.source == "torchvision"}
    for source in ("timm", "acme", "vgg", "torchvision"):
        install_source(site, source, list(before))
    after = Registry()
    assert {name: after.resolve(name)[0] for name in before} == before


def test_resolving_and_listing_import_no_plugin(registry):
    for spec in registry.specs():
        if spec.source in {"timm", "acme"}:
            assert registry.resolve(spec.qualified_name)[0] is spec
    assert not {"timm_of_a_test", "acme_of_a_test"} & set(sys.modules)


def test_a_plugin_that_lists_backbones_is_a_source(registry, site):
    install_source(site, "empty")
    assert {"torchvision", "timm", "acme"} <= set(registry.sources())
    assert "empty" not in Registry().sources()


def test_the_name_of_a_core_family_is_not_a_source(registry):
    with pytest.raises(UnknownBackboneError, match=r"no source 'resnet'.*torchvision:resnet18"):
        registry.resolve("resnet:resnet18")


def test_the_error_for_a_name_of_a_blocked_plugin_has_the_reason(site):
    install_source(site, "acme", ["acmenet"])
    with pytest.raises(PluginError, match=r"'acme' \(headstrip-acme 1.0\) .* disabled by"):
        Registry(disabled=["acme"]).resolve("acme:acmenet")


def test_the_process_has_one_registry_until_it_is_replaced(site):
    use_registry(None)
    try:
        assert get_registry() is get_registry()
        own = Registry()
        use_registry(own)
        assert get_registry() is own
    finally:
        use_registry(None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40).filter(lambda text: ":" not in text))
def test_any_text_resolves_to_a_backbone_of_that_name_or_is_unknown(registry, text):
    try:
        spec, _ = registry.resolve(text)
    except UnknownBackboneError:
        return
    assert text.startswith(spec.name)
