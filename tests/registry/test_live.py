"""The catalog does not limit the names: headstrip queries the plugin for other names."""

from __future__ import annotations

import inspect
import sys

import pytest
from tests.registry.sources import LIVE, install_source
from torchvision import models
from torchvision.models import _api

from headstrip import PluginError, UnknownBackboneError, WeightsEntry, build_encoder
from headstrip.registry.registry import Registry, use_registry


@pytest.fixture
def registry(site):
    install_source(site, "acme", ["listed"], [("listed", WeightsEntry("V1"))], code=LIVE)
    return Registry()


def queries():
    return sys.modules["acme_of_a_test"].asked


def test_the_plugin_is_queried_each_time_for_a_name_that_the_catalog_lacks(registry):
    spec, _ = registry.resolve("acme:newest")
    assert spec.qualified_name == "acme:newest"
    assert registry.resolve("acme:newest.V2")[0] == spec
    # The answer may change: a folder may contain another network, for example.
    assert queries() == ["newest", "newest"]


def test_a_name_in_the_catalog_queries_no_plugin(registry):
    registry.resolve("acme:listed")
    assert "acme_of_a_test" not in sys.modules


def test_the_plugin_receives_a_hub_id_whole_with_its_revision(registry):
    first, _ = registry.resolve("acme:new/model-1.5@main")
    second, _ = registry.resolve("acme:new/model-1.5@v2")
    assert queries() == ["new/model-1.5@main", "new/model-1.5@v2"]
    assert (first.name, second.name) == ("new/model-1.5@main", "new/model-1.5@v2")


def test_a_name_that_the_plugin_does_not_know_is_refused(registry):
    with pytest.raises(UnknownBackboneError, match="There is no backbone 'acme:older'"):
        registry.resolve("acme:older")


def test_a_plugin_cannot_return_a_backbone_of_another_source(registry):
    with pytest.raises(PluginError, match="returned: 'resnet18' claims the source 'torchvision'"):
        registry.resolve("acme:impostor")
    assert registry.resolve("resnet18")[0].dim == 512


def test_a_plugin_cannot_return_another_backbone_than_the_requested_one(registry):
    with pytest.raises(PluginError, match="it describes 'newest' when headstrip asks for 'alias'"):
        registry.resolve("acme:alias")


def test_an_unknown_bare_name_queries_no_plugin(registry):
    with pytest.raises(UnknownBackboneError):
        registry.resolve("newest")
    assert "acme_of_a_test" not in sys.modules


def test_the_plugin_provides_the_weights_of_a_live_backbone(registry):
    spec, _ = registry.resolve("acme:newest")
    assert registry.weights(spec) == (WeightsEntry("LIVE"),)


def test_the_table_provides_the_weights_of_a_listed_backbone(registry):
    registry.resolve("acme:newest")
    spec, _ = registry.resolve("acme:listed")
    assert registry.weights(spec) == (WeightsEntry("V1"),)
    assert queries() == ["newest"]


@pytest.fixture
def newer_torchvision():
    """Add an architecture to torchvision that the catalog does not list yet."""

    def resnet19(**options):
        return models.resnet18(**options)

    resnet19.__signature__ = inspect.signature(models.resnet18)
    resnet19.__module__ = "torchvision.models.resnet"
    _api.register_model()(resnet19)
    registry = Registry()
    use_registry(registry)
    yield registry
    del _api.BUILTIN_MODELS["resnet19"]
    use_registry(None)


def test_an_architecture_of_a_newer_torchvision_can_be_built(newer_torchvision):
    encoder = build_encoder("torchvision:resnet19", weights=None)
    assert (encoder.output_dim, encoder.spec.family) == (512, "resnet")


def test_the_family_provides_the_weights_of_a_newer_torchvision(newer_torchvision):
    spec, _ = newer_torchvision.resolve("torchvision:resnet19")
    tags = [entry.tag for entry in newer_torchvision.weights(spec)]
    assert tags == [member.name for member in models.ResNet18_Weights]


def test_a_disabled_family_is_not_queried(newer_torchvision):
    with pytest.raises(UnknownBackboneError):
        Registry(disabled=["resnet"]).resolve("torchvision:resnet19")
