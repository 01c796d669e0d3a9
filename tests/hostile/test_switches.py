"""Disabling plugins before they are imported, and requesting errors instead of records."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.distributions import on_path, run_python
from tests.hostile.everything import smoke_test_all

from headstrip import PluginError
from headstrip.registry.registry import Registry


@pytest.fixture(autouse=True)
def installed(site):
    with on_path(site):
        yield


def record_of(registry, plugin):
    records = {(record.name, record.origin != "built-in"): record for record in registry.records()}
    return records[plugin, True]


def test_named_plugins_are_blocked_before_import(monkeypatch):
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "system_exit, slow")
    registry = Registry()
    for plugin in ("system_exit", "slow"):
        with pytest.raises(PluginError, match=r"cannot be used: disabled by .*Allow it"):
            registry.resolve(f"{plugin}:net")
        assert record_of(registry, plugin).status == "blocked"
        assert f"hostile_{plugin}" not in sys.modules
    assert record_of(registry, "import_error").status == "found"


def test_a_disabled_plugin_lists_nothing(monkeypatch):
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "slow")
    assert "slow:net" not in [spec.qualified_name for spec in Registry().specs()]
    monkeypatch.delenv("HEADSTRIP_DISABLE_PLUGINS")
    assert "slow:net" in [spec.qualified_name for spec in Registry().specs()]


def test_a_star_disables_all_third_party_plugins_and_no_built_in_ones(monkeypatch):
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "*")
    registry = Registry()
    statuses = {record.status for record in registry.records() if record.origin != "built-in"}
    assert statuses == {"blocked"}
    assert registry.sources() == ["torchvision"]
    assert registry.resolve("vgg11")[0].plugin == "vgg"


def test_names_passed_in_code_are_disabled_too():
    assert record_of(Registry(disabled=["slow"]), "slow").status == "blocked"


def test_strict_mode_raises_for_an_unusable_plugin(monkeypatch):
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"is unusable: .*HEADSTRIP_STRICT_PLUGINS=1"):
        Registry()


def test_strict_mode_ignores_disabled_plugins(monkeypatch):
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "*")
    assert Registry().sources() == ["torchvision"]


def test_strict_mode_raises_for_a_plugin_that_does_not_load(monkeypatch):
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "twice,vgg,four_dimensions")
    registry = Registry()
    with pytest.raises(PluginError, match=r"'import_error' .* cannot be used"):
        smoke_test_all(registry)


def test_strict_mode_raises_for_a_plugin_that_fails_its_smoke_test(monkeypatch):
    others = "twice,vgg,import_error,misspelt_hook,no_hooks,other_api,slow,system_exit"
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", f"{others},wrong_argument,raising,non_module")
    with pytest.raises(PluginError, match=r"four_dimensions.* gave shape \(2, 8, 6, 6\)"):
        smoke_test_all(Registry())


def test_a_disabled_built_in_family_is_unlisted_and_its_names_pass_to_no_plugin(monkeypatch):
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "vgg")
    registry = Registry()
    assert not [spec for spec in registry.specs() if spec.family == "vgg"]
    for name in ("vgg11", "torchvision:vgg11"):
        with pytest.raises(PluginError, match=r"'vgg' \(built-in\) cannot be used: disabled by"):
            registry.resolve(name)


def test_the_script_installs_the_hostile_plugins(tmp_path):
    script = str(Path(__file__).with_name("install.py"))
    result = run_python(script, str(tmp_path))
    assert result.returncode == 0
    assert len(list(tmp_path.glob("*.dist-info"))) == 13
    assert run_python(script).returncode == 1
