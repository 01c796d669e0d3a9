"""The catalog is an index, never a gate: a name that it lacks is asked of the live plugin."""

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


def asked():
    return sys.modules["acme_of_a_test"].asked


def test_a_name_that_the_catalog_lacks_is_asked_of_the_plugin_each_time(registry):
    spec, _ = registry.resolve("acme:newest")
    assert spec.qualified_name == "acme:newest"
    assert registry.resolve("acme:newest.V2")[0] == spec
    # What it describes may have changed: a folder holds another network, for example.
    assert asked() == ["newest", "newest"]


def test_a_name_of_the_catalog_asks_nobody(registry):
    registry.resolve("acme:listed")
    assert "acme_of_a_test" not in sys.modules


def test_a_hub_id_is_asked_for_with_its_revision_and_unsplit(registry):
    first, _ = registry.resolve("acme:new/model-1.5@main")
    second, _ = registry.resolve("acme:new/model-1.5@v2")
    assert asked() == ["new/model-1.5@main", "new/model-1.5@v2"]
    assert (first.name, second.name) == ("new/model-1.5@main", "new/model-1.5@v2")


def test_a_name_that_the_plugin_does_not_know_either_is_unknown(registry):
    with pytest.raises(UnknownBackboneError, match="There is no backbone 'acme:older'"):
        registry.resolve("acme:older")


def test_a_plugin_cannot_answer_for_another_source(registry):
    with pytest.raises(PluginError, match="returned: 'resnet18' claims the source 'torchvision'"):
        registry.resolve("acme:impostor")
    assert registry.resolve("resnet18")[0].dim == 512


def test_a_plugin_cannot_answer_with_another_backbone(registry):
    with pytest.raises(PluginError, match="it describes 'newest' when headstrip asks for 'alias'"):
        registry.resolve("acme:alias")


def test_a_bare_name_is_asked_of_nobody(registry):
    with pytest.raises(UnknownBackboneError):
        registry.resolve("newest")
    assert "acme_of_a_test" not in sys.modules


def test_the_weights_of_a_live_backbone_are_asked_of_the_plugin(registry):
    spec, _ = registry.resolve("acme:newest")
    assert registry.weights(spec) == (WeightsEntry("LIVE"),)


def test_the_weights_of_a_listed_backbone_are_the_tables_although_another_is_live(registry):
    registry.resolve("acme:newest")
    spec, _ = registry.resolve("acme:listed")
    assert registry.weights(spec) == (WeightsEntry("V1"),)
    assert asked() == ["newest"]


@pytest.fixture
def newer_torchvision():
    """Have torchvision bring an architecture that the catalog does not list yet."""

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


def test_an_architecture_of_a_newer_torchvision_builds(newer_torchvision):
    encoder = build_encoder("torchvision:resnet19", weights=None)
    assert (encoder.output_dim, encoder.spec.family) == (512, "resnet")


def test_the_weights_of_a_newer_torchvision_are_asked_of_its_family(newer_torchvision):
    spec, _ = newer_torchvision.resolve("torchvision:resnet19")
    tags = [entry.tag for entry in newer_torchvision.weights(spec)]
    assert tags == [member.name for member in models.ResNet18_Weights]


def test_a_family_that_is_disabled_is_not_asked(newer_torchvision):
    with pytest.raises(UnknownBackboneError):
        Registry(disabled=["resnet"]).resolve("torchvision:resnet19")
