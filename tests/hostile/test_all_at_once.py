"""Twelve hostile plugins installed at once break only themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.distributions import run_python
from torchvision import models

REASONS = {
    "import_error": "ModuleNotFoundError: No module named 'a_library_that_nobody_has'",
    "system_exit": "SystemExit: this plugin ends your program",
    "misspelt_hook": "it marks strip_haed as a hook, and there is no hook of that name; did you",
    "no_hooks": "it implements no hook",
    "wrong_argument": "Argument(s) {'pretrained'} are declared in the hookimpl",
    "twice": "more than one distribution uses the name 'twice'",
    "vgg": "the name 'vgg' belongs to headstrip itself",
    "raising": "raised KeyError: 'build_model' in build_model for 'raising:net'",
    "non_module": "returned a dict instead of a Module from build_model for 'non_module:net'",
    "four_dimensions": "(hostile-four-dimensions 1.0): it gave shape (2, 8, 6, 6)",
    "other_api": "it was built for version 99 of the plugin API, and this is 1",
}
BUILDS = {
    name: f"{name}:{'unheard_of' if name in {'twice', 'vgg'} else 'net'}"
    for name in REASONS
    if name != "vgg"
}


@pytest.fixture(scope="module")
def facts(site: Path) -> dict[str, Any]:
    """Return the results of one process with all twelve plugins installed."""
    script = str(Path(__file__).with_name("everything.py"))
    result = run_python(script, "slow:net", *BUILDS.values(), site=site)
    assert "Traceback" not in result.stderr
    assert result.returncode == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.slow
def test_every_torchvision_name_still_resolves_to_torchvision(facts):
    names = models.list_models(module=models) + models.list_models(module=models.video)
    assert facts["meanings"] == {name: f"torchvision:{name}" for name in names}


def test_listing_and_resolving_import_no_hostile_plugin(facts):
    assert facts["after listing"] == []


def test_all_hostile_plugins_except_the_blocked_ones_list_their_names(facts):
    hostile = {name for name in facts["listed"] if name.endswith(":net")}
    assert hostile == {f"{name}:net" for name in [*REASONS, "slow"]} - {"twice:net", "vgg:net"}


def test_backbones_of_headstrip_still_build(facts):
    assert facts["core"] == {
        "resnet18": {"name": "torchvision:resnet18", "dim": 512},
        "vgg11": {"name": "torchvision:vgg11", "dim": 4096},
        "squeezenet1_1": {"name": "torchvision:squeezenet1_1", "dim": 512},
    }


def test_building_backbones_of_headstrip_imports_no_hostile_plugin(facts):
    assert facts["after core"] == ["torch"]


@pytest.mark.parametrize("plugin", BUILDS)
def test_building_a_hostile_backbone_gives_an_error_that_names_the_distribution(facts, plugin):
    found = facts["hostile"][BUILDS[plugin]]
    assert found["error"] == "PluginError"
    assert f"{plugin!r} (hostile-{plugin.replace('_', '-')} 1.0" in found["message"]


@pytest.mark.parametrize(
    ("plugin", "hook", "shown"),
    [
        ("raising", "build_model", "KeyError: 'build_model'"),
        ("non_module", "build_model", "a dict instead of a Module"),
        ("four_dimensions", "strip_head", "shape (2, 8, 6, 6)"),
    ],
)
def test_the_error_of_a_hook_names_the_hook_the_backbone_and_the_problem(
    facts, plugin, hook, shown
):
    message = facts["hostile"][f"{plugin}:net"]["message"]
    assert hook in message
    assert f"{plugin}:net" in message
    assert shown in message


def test_the_slow_plugin_builds_on_request(facts):
    assert facts["hostile"]["slow:net"] == {"name": "slow:net", "dim": 8}


def test_the_catalog_of_the_impostor_is_not_read(facts):
    record = facts["records"]["vgg"]
    assert (record["status"], record["rows"]) == ("blocked", 0)
    assert facts["listed"].count("torchvision:vgg11") == 1


@pytest.mark.parametrize("plugin", REASONS)
def test_each_plugin_has_a_record_with_its_distribution_and_reason(facts, plugin):
    record = facts["records"][plugin]
    distribution = "posing-as-vgg" if plugin == "vgg" else plugin.replace("_", "-")
    assert record["origin"].startswith(f"hostile-{distribution} 1.0")
    assert REASONS[plugin] in record["error"]


def test_both_distributions_of_one_plugin_are_named(facts):
    assert facts["records"]["twice"]["origin"] == "hostile-twice 1.0, hostile-twice-again 1.0"


def test_the_record_of_the_slow_plugin_has_the_seconds_of_its_import(facts):
    record = facts["records"]["slow"]
    assert (record["status"], record["error"]) == ("loaded", None)
    assert record["seconds"] >= 2


@pytest.mark.slow
def test_the_plugins_command_reports_each_plugin_without_a_traceback(site):
    result = run_python("-m", "headstrip.cli", "plugins", "--json", site=site)
    assert "Traceback" not in result.stderr
    assert result.returncode == 0
    reported = {
        record["name"]: record["error"]
        for record in json.loads(result.stdout)
        if record["origin"].startswith("hostile-")
    }
    assert reported.pop("slow") is None
    assert reported.keys() == REASONS.keys()
    assert all(reason in reported[plugin] for plugin, reason in REASONS.items())


def test_the_list_command_imports_no_hostile_plugin(site):
    result = run_python("-X", "importtime", "-m", "headstrip.cli", "list", site=site)
    assert result.returncode == 0
    assert "slow:net" in result.stdout
    assert "hostile_" not in result.stderr
