"""A plugin that a notebook registers works like an installed plugin."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import install_distribution, on_path
from tests.plugins.acme import NET, Acme, answering, plugin_with, spec_like
from torch import nn
from torchvision import models

from headstrip import (
    BackboneSpec,
    HeadNotFoundError,
    PluginError,
    UnknownBackboneError,
    build_encoder,
    detach,
    hookimpl,
    register_plugin,
    strip_head,
)


def test_the_backbones_of_a_registered_plugin_are_listed_and_built(registry):
    record = register_plugin(Acme())
    encoder = build_encoder("acme:net", weights=None)
    assert (record.name, record.origin, record.status, record.rows) == (
        "acme",
        "registered",
        "loaded",
        1,
    )
    assert NET in registry.specs()
    assert encoder.output_dim == 6
    x = torch.rand(2, *encoder.preprocessing.input_shape)
    assert encoder.logits(x).shape == (2, 5)


def test_a_plugin_has_the_name_of_its_class_or_the_name_from_the_caller():
    assert register_plugin(Acme()).name == "acme"
    other = spec_like(source="lab", plugin="lab", family="lab:net")
    assert register_plugin(Acme(other), "lab").name == "lab"


def test_the_record_names_the_module_of_the_plugin():
    assert register_plugin(Acme()).module.endswith("acme")


def test_registering_a_name_again_replaces_the_plugin(registry):
    register_plugin(Acme())
    register_plugin(Acme(spec_like(name="other")))
    assert registry.resolve("acme:other")[0].name == "other"
    with pytest.raises(UnknownBackboneError):
        registry.resolve("acme:net")
    assert [record.name for record in registry.records()].count("acme") == 1


def test_a_refused_replacement_keeps_the_earlier_plugin():
    register_plugin(Acme())
    with pytest.raises(PluginError, match="it is the class Acme"):
        register_plugin(Acme, "acme")
    assert build_encoder("acme:net", weights=None).output_dim == 6


@pytest.mark.parametrize("name", ["timm", "torchvision", "headstrip", "vgg", "resnet"])
def test_registering_under_a_name_of_headstrip_is_refused(name):
    with pytest.raises(PluginError, match=f"The name {name!r} is taken by"):
        register_plugin(Acme(), name)


def test_registering_under_the_name_of_an_installed_plugin_is_refused(tmp_path):
    from headstrip.registry.registry import use_registry

    install_distribution(tmp_path, "acme-networks", {"acme": "acme_networks"}, {})
    with on_path(tmp_path):
        use_registry(None)
        with pytest.raises(PluginError, match=r"'acme' is taken by 'acme' \(acme-networks 1.0\)"):
            register_plugin(Acme())


@pytest.mark.parametrize("name", ["a:b", "a/b", "a.b", "a b", "-a", "é", " "])
def test_an_invalid_source_name_is_refused(name):
    with pytest.raises(PluginError, match=f"{name!r} cannot be the name of a source"):
        register_plugin(Acme(), name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "torchvision"}, "claims the source 'torchvision'"),
        ({"plugin": "resnet"}, "names the plugin 'resnet'"),
        ({"family": "other:net"}, "names the family 'other:net'"),
        ({"family": "net"}, "names the family 'net'"),
        ({"name": "net.large"}, "does not have the form of a backbone's name"),
    ],
)
def test_a_plugin_that_describes_backbones_of_others_is_refused(registry, changes, reason):
    with pytest.raises(PluginError, match=f"was not registered: .*{reason}"):
        register_plugin(Acme(spec_like(**changes)))
    assert "acme" not in registry.sources()


def test_a_plugin_that_lists_a_backbone_twice_is_refused():
    with pytest.raises(PluginError, match="it names 'net' twice"):
        register_plugin(Acme(NET, NET))


def test_a_plugin_may_have_only_strippers(registry):
    class Strippers:
        FAMILIES = ("mlp", "cnn")

        @hookimpl
        def strip_head(self, model, family):
            return detach(model, "2" if family == "cnn" else "0")

    register_plugin(Strippers(), "lab")
    model = nn.Sequential(nn.Conv2d(3, 6, 8), nn.Flatten(), nn.Linear(6, 5))
    parts = strip_head(model, family="lab:cnn")
    assert parts.head.out_features == 5
    assert parts.backbone is model
    assert "lab" not in registry.sources()


def test_a_plugin_may_have_only_models_of_a_core_family():
    spec = BackboneSpec("small", "lab", "resnet", "lab", "image", (3, 64, 64), 512, 11_689_512)
    builder = plugin_with(
        backbones=hookimpl(lambda self: (spec,)),
        build_model=hookimpl(lambda self, options: models.resnet18(**options)),
    )
    register_plugin(builder, "lab")
    encoder = build_encoder("lab:small", weights=None)
    assert (encoder.output_dim, encoder.head.out_features) == (512, 1000)


def test_the_error_for_a_plugin_that_cannot_build_its_backbones_is_clear():
    register_plugin(answering("backbones", (spec_like(family="resnet"),)))
    with pytest.raises(PluginError, match="does not implement build_model, which 'acme:net'"):
        build_encoder("acme:net", weights=None)


def test_the_error_for_an_unknown_family_of_a_plugin_lists_its_families():
    register_plugin(Acme())
    with pytest.raises(
        PluginError, match=r"'acme' \(registered\) has no family 'mlp'. Its families: net"
    ):
        strip_head(nn.Linear(1, 1), family="acme:mlp")


def test_a_family_may_have_the_name_of_its_plugin():
    class Same(Acme):
        FAMILIES = ("acme",)

    register_plugin(Same(spec_like(family="acme:acme")), "acme")
    assert build_encoder("acme:net", weights=None).output_dim == 6


def test_a_core_family_may_be_written_with_its_source():
    assert strip_head(models.resnet18(), family="torchvision:resnet").paths == ("fc",)


@pytest.mark.parametrize("family", ["resnets", "torchvision:resnets", 18, None])
def test_the_error_for_an_unknown_core_family_suggests_others(family):
    with pytest.raises(
        PluginError, match=r"There is no family .*(Did you mean resnet|Choose alexnet)"
    ):
        strip_head(nn.Linear(1, 1), family=family)


def test_the_error_for_a_family_of_a_missing_plugin_names_the_plugin():
    with pytest.raises(PluginError, match="needs the plugin 'nobody', which is not installed"):
        strip_head(nn.Linear(1, 1), family="nobody:net")


def test_a_refused_network_of_another_family_stays_unchanged():
    model = nn.Sequential(nn.Flatten())
    register_plugin(Acme())
    with pytest.raises(HeadNotFoundError):
        strip_head(model, family="acme:net")
    assert len(model) == 1


def test_registering_changes_no_existing_name(registry):
    core = [spec.name for spec in registry.specs() if spec.source == "torchvision"]
    before = {name: registry.resolve(name)[0] for name in core}
    register_plugin(Acme(spec_like(name="resnet50"), spec_like(name="vgg11")))
    assert {name: registry.resolve(name)[0] for name in before} == before
    assert registry.resolve("acme:resnet50")[0].dim == 6
