"""headstrip finds plugins in metadata without importing them, even beside broken metadata."""

from __future__ import annotations

import sys

import pytest
from tests.distributions import install_distribution, on_path

from headstrip import PluginError
from headstrip.plugins.loader import find_plugins
from headstrip.registry.registry import Registry

MINIMAL = """
from headstrip import hookimpl

@hookimpl
def weights(spec):
    return ()
"""


@pytest.fixture
def site(tmp_path):
    with on_path(tmp_path):
        yield tmp_path


def found(name):
    return {plugin.name: plugin for plugin in find_plugins((), ())}[name]


def test_a_plugin_is_found_with_its_distribution_and_loaded_on_demand(site):
    files = {"acme/__init__.py": MINIMAL}
    install_distribution(site, "acme-networks", {"acme": "acme"}, files, version="2.1")
    plugin = found("acme")
    record = plugin.record
    assert (record.origin, record.module, record.status) == ("acme-networks 2.1", "acme", "found")
    assert (record.api, record.seconds, record.error) == (None, None, None)
    assert "acme" not in sys.modules
    plugin.load()
    assert (plugin.record.api, plugin.record.status) == (1, "loaded")


def test_the_folder_of_a_package_is_found_without_importing_it(site):
    files = {
        "acme/__init__.py": "raise AssertionError('imported')",
        "acme/plugins/__init__.py": "",
    }
    install_distribution(site, "acme-networks", {"acme": "acme.plugins:plugin"}, files)
    assert found("acme").package == site / "acme"


@pytest.mark.parametrize("value", ["acme_file", "acme_nowhere", ":plugin"])
def test_a_plugin_without_a_package_has_no_folder(site, value):
    install_distribution(site, "acme-networks", {"acme": value}, {"acme_file.py": MINIMAL})
    assert found("acme").package is None


@pytest.mark.parametrize("value", ["acme_nowhere", "acme_file:plugin", "acme file", ":plugin"])
def test_a_broken_entry_point_fails_with_a_reason(site, value):
    install_distribution(site, "acme-networks", {"acme": value}, {"acme_file.py": MINIMAL})
    plugin = found("acme")
    with pytest.raises(PluginError, match="cannot be used"):
        plugin.load()
    assert plugin.record.status == "failed"
    assert plugin.record.error


@pytest.mark.parametrize("name", ["acme.net", "acme/net", "acme net", "-acme"])
def test_a_plugin_with_an_invalid_source_name_is_blocked(site, name):
    install_distribution(site, "acme-networks", {name: "acme"}, {"acme/__init__.py": MINIMAL})
    record = found(name).record
    assert record.status == "blocked"
    assert record.error.startswith(f"the name {name!r} cannot be a source")


@pytest.mark.parametrize(
    ("name", "home"), [("timm", "headstrip-timm"), ("hf", "headstrip-transformers")]
)
@pytest.mark.parametrize("distribution", ["acme-networks", "headstrip-tim", "headstrip-timm-extra"])
def test_a_reserved_source_is_blocked_in_other_distributions(
    name, home, distribution, tmp_path, monkeypatch
):
    # The only folder on the path, because the project's own distributions are installed here.
    install_distribution(tmp_path, distribution, {name: "acme"}, {"acme.py": MINIMAL})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    record = found(name).record
    assert (record.status, record.error) == ("blocked", f"the name {name!r} belongs to {home}")


def test_a_reserved_source_is_found_in_its_own_distribution(tmp_path, monkeypatch):
    install_distribution(tmp_path, "Headstrip-timm", {"timm": "acme"}, {"acme.py": MINIMAL})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert found("timm").record.status == "found"


def test_two_distributions_with_the_same_source_are_blocked_and_named(site):
    install_distribution(site, "one", {"acme": "one"}, {"one.py": MINIMAL})
    install_distribution(site, "other", {"acme": "other"}, {"other.py": MINIMAL}, version="3")
    record = found("acme").record
    assert (record.status, record.origin) == ("blocked", "one 1.0, other 3")
    assert record.error == "more than one distribution uses the name 'acme'"
    with pytest.raises(PluginError, match=r"Uninstall all of these distributions but one; `head"):
        found("acme").load()


@pytest.mark.parametrize("value", ["", ":::"])
def test_an_entry_point_without_a_module_fails_with_its_value(site, value):
    install_distribution(site, "one", {"acme": value}, {})
    with pytest.raises(PluginError, match=f"entry point {value!r} is not of the form module:name"):
        found("acme").load()


def test_a_distribution_that_is_on_the_path_twice_counts_once(site, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    for folder in (site, again):
        install_distribution(folder, "acme-networks", {"acme": "acme"}, {"acme.py": MINIMAL})
    with on_path(again):
        assert found("acme").record.status == "found"


def test_a_distribution_with_missing_or_binary_metadata_is_unnamed(site):
    info = install_distribution(site, "acme-networks", {"acme": "acme"}, {"acme.py": MINIMAL})
    (info / "METADATA").unlink()
    assert found("acme").record.origin == "unnamed unknown"
    (info / "METADATA").write_bytes(b"Name: \xff\n")
    assert found("acme").record.origin == "unnamed unknown"


def test_unreadable_metadata_of_others_hides_no_plugin(site):
    broken = install_distribution(site, "broken", {}, {})
    (broken / "entry_points.txt").write_text("[headstrip]\nthis line has no value\n")
    install_distribution(site, "acme-networks", {"acme": "acme"}, {"acme.py": MINIMAL})
    assert found("acme").record.status == "found"
    assert Registry().resolve("resnet18")[0].source == "torchvision"


def test_disabled_takes_precedence_over_other_problems_of_a_name(site):
    for name in ("one", "other"):
        install_distribution(site, name, {"vgg": name}, {f"{name}.py": MINIMAL})
    [plugin] = [plugin for plugin in find_plugins(["vgg"], ["vgg"]) if plugin.name == "vgg"]
    assert plugin.record.error.startswith("disabled by")


@pytest.mark.parametrize(
    ("name", "home"), [("timm", "headstrip-timm"), ("hf", "headstrip-transformers")]
)
@pytest.mark.parametrize("own", [True, False])
def test_a_reserved_source_is_accepted_only_from_its_distribution(
    tmp_path, monkeypatch, name, home, own
):
    for number, distribution in enumerate(
        [home, home.replace("-", "_").upper()] if own else [f"{home}-2", "headstrip", "acme"]
    ):
        site = tmp_path / str(number)
        files = {"acme/__init__.py": MINIMAL}
        install_distribution(site, distribution, {name: "acme"}, files)
        # The only folder on the path, so that the reserved distribution is not installed either.
        monkeypatch.setattr(sys, "path", [str(site)])
        record = found(name).record
        expected = ("found", None) if own else ("blocked", f"the name {name!r} belongs to {home}")
        assert (record.status, record.error) == expected
