"""A plugin that lives in a notebook does what an installed one does."""

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


def test_its_backbones_are_listed_and_build(registry):
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


def test_it_is_named_as_its_class_or_as_the_caller_says():
    assert register_plugin(Acme()).name == "acme"
    other = spec_like(source="lab", plugin="lab", family="lab:net")
    assert register_plugin(Acme(other), "lab").name == "lab"


def test_the_record_names_the_module_it_comes_from():
    assert register_plugin(Acme()).module.endswith("acme")


def test_registering_again_replaces_it(registry):
    register_plugin(Acme())
    register_plugin(Acme(spec_like(name="other")))
    assert registry.resolve("acme:other")[0].name == "other"
    with pytest.raises(UnknownBackboneError):
        registry.resolve("acme:net")
    assert [record.name for record in registry.records()].count("acme") == 1


def test_a_refused_replacement_leaves_the_one_before():
    register_plugin(Acme())
    with pytest.raises(PluginError, match="it is the class Acme"):
        register_plugin(Acme, "acme")
    assert build_encoder("acme:net", weights=None).output_dim == 6


@pytest.mark.parametrize("name", ["timm", "torchvision", "headstrip", "vgg", "resnet"])
def test_headstrips_own_names_are_taken(name):
    with pytest.raises(PluginError, match=f"The name {name!r} is taken by"):
        register_plugin(Acme(), name)


def test_the_name_of_an_installed_plugin_is_taken(tmp_path):
    from headstrip.registry.registry import use_registry

    install_distribution(tmp_path, "acme-networks", {"acme": "acme_networks"}, {})
    with on_path(tmp_path):
        use_registry(None)
        with pytest.raises(PluginError, match=r"'acme' is taken by 'acme' \(acme-networks 1.0\)"):
            register_plugin(Acme())


@pytest.mark.parametrize("name", ["a:b", "a/b", "a.b", "a b", "-a", "é", " "])
def test_a_name_that_cannot_stand_before_the_colon_is_refused(name):
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
def test_it_describes_backbones_of_its_own_alone(registry, changes, reason):
    with pytest.raises(PluginError, match=f"was not registered: .*{reason}"):
        register_plugin(Acme(spec_like(**changes)))
    assert "acme" not in registry.sources()


def test_it_names_a_backbone_once():
    with pytest.raises(PluginError, match="it names 'net' twice"):
        register_plugin(Acme(NET, NET))


def test_a_plugin_may_own_only_strippers(registry):
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


def test_a_plugin_may_own_only_models_of_a_family_that_is_the_cores():
    spec = BackboneSpec("small", "lab", "resnet", "lab", "image", (3, 64, 64), 512, 11_689_512)
    builder = plugin_with(
        backbones=hookimpl(lambda self: (spec,)),
        build_model=hookimpl(lambda self, options: models.resnet18(**options)),
    )
    register_plugin(builder, "lab")
    encoder = build_encoder("lab:small", weights=None)
    assert (encoder.output_dim, encoder.head.out_features) == (512, 1000)


def test_a_plugin_with_names_and_no_way_to_build_them_is_said_so():
    register_plugin(answering("backbones", (spec_like(family="resnet"),)))
    with pytest.raises(PluginError, match="does not implement build_model, which 'acme:net'"):
        build_encoder("acme:net", weights=None)


def test_a_family_that_the_plugin_does_not_have_is_said_so():
    register_plugin(Acme())
    with pytest.raises(PluginError, match=r"'acme' \(registered\) has no family 'mlp'. It has net"):
        strip_head(nn.Linear(1, 1), family="acme:mlp")


def test_a_family_may_have_the_name_of_its_plugin():
    class Same(Acme):
        FAMILIES = ("acme",)

    register_plugin(Same(spec_like(family="acme:acme")), "acme")
    assert build_encoder("acme:net", weights=None).output_dim == 6


def test_a_core_family_has_a_qualified_name_too():
    assert strip_head(models.resnet18(), family="torchvision:resnet").paths == ("fc",)


@pytest.mark.parametrize("family", ["resnets", "torchvision:resnets", 18, None])
def test_a_family_that_the_core_does_not_have_is_said_with_those_near(family):
    with pytest.raises(
        PluginError, match=r"There is no family .*(Did you mean resnet|Choose alexnet)"
    ):
        strip_head(nn.Linear(1, 1), family=family)


def test_a_family_of_a_plugin_that_is_not_there_is_said_so():
    with pytest.raises(PluginError, match="needs the plugin 'nobody', which is not installed"):
        strip_head(nn.Linear(1, 1), family="nobody:net")


def test_a_network_of_another_family_is_left_as_it_was():
    model = nn.Sequential(nn.Flatten())
    register_plugin(Acme())
    with pytest.raises(HeadNotFoundError):
        strip_head(model, family="acme:net")
    assert len(model) == 1


def test_registering_changes_no_name_that_was_there(registry):
    core = [spec.name for spec in registry.specs() if spec.source == "torchvision"]
    before = {name: registry.resolve(name)[0] for name in core}
    register_plugin(Acme(spec_like(name="resnet50"), spec_like(name="vgg11")))
    assert {name: registry.resolve(name)[0] for name in before} == before
    assert registry.resolve("acme:resnet50")[0].dim == 6
