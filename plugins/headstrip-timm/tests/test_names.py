"""The meaning of names when timm's architectures are available."""

from __future__ import annotations

import re

import pytest
import timm
from tests.distributions import run_python

from headstrip import PluginError, UnknownBackboneError, build_encoder
from headstrip.registry.registry import Registry, get_registry, use_registry
from headstrip_timm.describe import has_tag

SMALL = "mobilenetv3_small_050"
# A package that registers its own network under one of timm's names.
MINE = """
from timm.models import register_model

@register_model
def lcnet_050(pretrained=False, **options):
    raise SystemExit("the function of another package was run")
"""
BUILD = """
import mine
from headstrip import PluginError, build_encoder
try:
    build_encoder("timm:lcnet_050", weights=None)
except PluginError as error:
    print(error)
print(build_encoder("timm:lcnet_035", weights=None).output_dim)
"""


@pytest.fixture
def without_catalog():
    """A registry that does not read timm's catalog, so that it queries timm itself."""
    registry = Registry(unread=["timm"])
    use_registry(registry)
    yield registry
    use_registry(None)


def test_a_bare_name_that_torchvision_lacks_means_timms():
    encoder = build_encoder(SMALL, weights=None)
    assert encoder.spec.qualified_name == f"timm:{SMALL}"
    assert type(encoder.backbone).__module__ == "timm.models.mobilenetv3"


def test_a_bare_name_that_both_have_means_torchvisions():
    spec, _ = get_registry().resolve("resnet50")
    assert spec.source == "torchvision"
    assert get_registry().resolve("timm:resnet50")[0].source == "timm"


def test_torchvision_keeps_every_name_that_both_have():
    names = [spec.name for spec in get_registry().specs() if spec.source == "timm"]
    other = {spec.name for spec in get_registry().specs() if spec.source == "torchvision"}
    both = other.intersection(names)
    assert len(both) > 30
    assert {get_registry().resolve(name)[0].source for name in both} == {"torchvision"}


def test_a_bare_name_may_have_a_tag():
    spec, parts = get_registry().resolve(f"{SMALL}.lamb_in1k")
    assert (spec.qualified_name, parts.tag) == (f"timm:{SMALL}", "lamb_in1k")


def test_a_tag_with_dots_is_kept_whole():
    _, parts = get_registry().resolve("timm:vit_base_patch32_clip_224.laion2b_ft_in12k.in1k")
    assert parts.tag == "laion2b_ft_in12k.in1k"


def test_the_error_for_a_mistyped_name_suggests_a_similar_one():
    with pytest.raises(UnknownBackboneError, match=SMALL):
        get_registry().resolve("mobilenetv3_smal_050")
    with pytest.raises(UnknownBackboneError, match="timm:resnetv2_50"):
        get_registry().resolve("timm:resnetv2_5O")


def test_the_error_for_a_name_the_installed_timm_lacks_suggests_an_upgrade(monkeypatch):
    monkeypatch.setattr(timm, "is_model", lambda name: False)
    with pytest.raises(PluginError, match=f"no architecture {SMALL!r}. Install a newer one"):
        build_encoder(f"timm:{SMALL}", weights=None)


def test_catalog_names_that_this_timm_lacks_give_clear_errors():
    missing = [
        spec
        for spec in get_registry().specs()
        if spec.source == "timm" and not timm.is_model(spec.name)
    ]
    if not missing:
        pytest.skip("this timm has every name of the catalog")
    # This timm also lacks some of their families.
    for spec in {spec.family: spec for spec in missing}.values():
        with pytest.raises(PluginError, match=f"no architecture {spec.name!r}.*--upgrade timm"):
            build_encoder(spec.qualified_name, weights=None)


def test_timm_describes_an_architecture_that_the_catalog_lacks(without_catalog):
    assert not [spec for spec in without_catalog.specs() if spec.source == "timm"]
    encoder = build_encoder(f"timm:{SMALL}", weights=None)
    listed, _ = Registry().resolve(f"timm:{SMALL}")
    assert encoder.spec.dim == encoder.output_dim == 1024
    assert (encoder.spec.family, encoder.spec.params) == (listed.family, listed.params)
    assert encoder.spec.law == listed.law


def test_timm_describes_the_weights_that_the_catalog_lacks(without_catalog):
    spec, _ = without_catalog.resolve(f"timm:{SMALL}")
    (entry,) = without_catalog.weights(spec)
    assert (entry.tag, entry.num_classes) == ("lamb_in1k", 1000)
    assert spec.default_weights == "lamb_in1k"


def test_a_name_that_neither_the_catalog_nor_timm_has_is_refused(without_catalog):
    with pytest.raises(UnknownBackboneError, match="nosuchnet"):
        without_catalog.resolve("timm:nosuchnet")


def test_the_error_for_a_deprecated_name_has_its_new_name():
    with pytest.raises(
        UnknownBackboneError, match=r"renamed.*'timm:tf_efficientnet_b0.ns_jft_in1k'"
    ):
        get_registry().resolve("timm:tf_efficientnet_b0_ns")


def test_every_deprecated_name_is_refused_and_absent_from_the_catalog():
    given_up = timm.models.get_deprecated_models()
    assert len(given_up) > 100
    assert not [spec for spec in get_registry().specs() if spec.name in given_up]
    for name in given_up:
        with pytest.raises(UnknownBackboneError, match=f"has re(named|moved) {name!r}"):
            get_registry().resolve(f"timm:{name}")


@pytest.mark.slow
def test_an_entry_point_that_another_package_overwrote_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = run_python("-W", "ignore", "-c", BUILD, site=tmp_path)
    assert done.returncode == 0, done.stderr
    refused, other = done.stdout.splitlines()
    assert "'lcnet_050'" in refused
    assert "overwritten by the module 'mine'" in refused
    assert other == "1280"


@pytest.mark.slow
def test_a_name_that_another_package_added_is_refused_but_not_as_overwritten(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("lcnet_050", "mynet"))
    code = BUILD.replace("lcnet_050", "mynet") + (
        "from headstrip_timm.families import FAMILIES\nprint('mine' in FAMILIES)\n"
    )
    done = run_python("-W", "ignore", "-c", code, site=tmp_path)
    assert done.returncode == 0, done.stderr
    refused, _, is_family = done.stdout.splitlines()
    assert "'mynet' in timm's table does not belong to timm: the module 'mine'" in refused
    assert "overwritten" not in refused
    assert is_family == "False"


def test_the_suggested_new_name_of_a_deprecated_one_exists():
    given_up = timm.models.get_deprecated_models()
    for name, now in given_up.items():
        with pytest.raises(UnknownBackboneError) as caught:
            get_registry().resolve(f"timm:{name}")
        message = str(caught.value)
        advised = re.search(r"'timm:([^']+)'", message)
        assert (advised is None) == ("has removed" in message), (name, now)
        if advised is not None:
            arch, _, tag = advised[1].partition(".")
            assert timm.is_model(arch)
            assert not tag or has_tag(arch, tag)


def test_an_overwritten_entry_point_is_refused_without_the_catalog_too(
    without_catalog, monkeypatch
):
    def entry_point(pretrained=False, **options):
        raise AssertionError("the function of another package was run")

    entry_point.__module__ = "somebody.elses"
    # timm.models.register_model writes to this table.
    monkeypatch.setitem(timm.models._registry._model_entrypoints, SMALL, entry_point)
    with pytest.raises(PluginError, match=r"somebody\.elses"):
        without_catalog.resolve(f"timm:{SMALL}")
