"""What pluggy lets pass and the contract does not."""

from __future__ import annotations

import types

import pluggy
import pytest
from tests.plugins.acme import Acme, plugin_with

from headstrip import PluginError, hookimpl, register_plugin
from headstrip.plugins.validation import HOOKS, contract_problem

foreign = pluggy.HookimplMarker("somebody_elses")


def build_model(self, spec, options):
    return None


def strip_head(self, model):
    return None


def test_a_plugin_that_keeps_the_contract_is_accepted():
    assert register_plugin(Acme(), "acme").status == "loaded"


def test_a_module_is_a_plugin_too():
    module = types.ModuleType("notebook.acme")
    module.weights = hookimpl(lambda spec: ())
    assert register_plugin(module).name == "acme"


@pytest.mark.parametrize("hook", HOOKS)
def test_a_function_with_a_hooks_name_must_be_marked(hook):
    problem = contract_problem(plugin_with(**{hook: lambda self: None}))
    assert problem == f"it defines {hook} without headstrip's @hookimpl"


def test_another_projects_marker_is_not_headstrips():
    problem = contract_problem(plugin_with(build_model=foreign(build_model)))
    assert problem == "it defines build_model without headstrip's @hookimpl"


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper", "optionalhook"])
def test_a_hook_that_wraps_others_or_may_be_unknown_is_refused(option):
    marked = hookimpl(**{option: True})(lambda self: None)
    problem = contract_problem(plugin_with(weights=marked))
    assert problem == f"weights is marked {option}, which headstrip does not support"


def test_a_hook_has_its_own_name_and_no_other():
    marked = hookimpl(specname="weights")(lambda self: None)
    assert "build is marked with a specname" in contract_problem(plugin_with(build=marked))
    assert "backbones is marked specname" in contract_problem(plugin_with(backbones=marked))


def test_a_default_would_be_used_whatever_core_passes():
    marked = hookimpl(lambda self, spec, options=None: None)
    problem = contract_problem(plugin_with(build_model=marked))
    assert problem == "build_model gives 'options' a default value, which hooks must not have"


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (lambda self, **kwargs: None, "**kwargs"),
        (lambda self, *args: None, "*args"),
        (lambda self, *, spec: None, "spec"),
        (lambda self, spec, /: None, "spec"),
    ],
)
def test_hooks_have_plain_arguments(function, shown):
    problem = contract_problem(plugin_with(weights=hookimpl(function)))
    assert problem == f"weights takes {shown}, and hooks must have plain arguments only"


def test_a_class_is_no_instance():
    assert contract_problem(Acme) == "it is the class Acme; its entry point must name an instance"


def test_a_misspelt_hook_is_named_with_the_one_that_may_be_meant():
    problem = contract_problem(plugin_with(strip_haed=hookimpl(strip_head), FAMILIES=("net",)))
    assert "it marks strip_haed as a hook, and there is no hook" in problem
    assert problem.endswith("did you mean strip_head?")


def test_a_marked_function_like_no_hook_is_named_alone():
    problem = contract_problem(plugin_with(xyz=hookimpl(lambda self: None)))
    assert problem == "it marks xyz as a hook, and there is no hook of that name"


def test_a_plugin_has_a_hook():
    assert contract_problem(object()) == "it implements no hook"


def test_a_hooks_name_that_is_no_function_is_none_of_its_hooks():
    assert contract_problem(plugin_with(weights=())) == "it implements no hook"


def test_families_need_strip_head_and_it_needs_them():
    only_one = "it defines only one of FAMILIES and strip_head, and must define both or neither"
    families = plugin_with(build_model=hookimpl(build_model), FAMILIES=("net",))
    assert contract_problem(families) == only_one
    assert contract_problem(plugin_with(strip_head=hookimpl(strip_head))) == only_one


@pytest.mark.parametrize("families", [["net"], "net", None, (1,), ("",), ("acme:net",)])
def test_families_are_a_tuple_of_bare_names(families):
    problem = contract_problem(plugin_with(strip_head=hookimpl(strip_head), FAMILIES=families))
    assert problem == f"FAMILIES is {families!r}, and must be a tuple of names"


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_plugin_for_another_version_of_the_contract_is_refused(version):
    plugin = plugin_with(weights=hookimpl(lambda self: None), API_VERSION=version)
    assert f"built for version {version!r} of the plugin API" in contract_problem(plugin)


def test_the_version_it_states_is_in_its_record_when_it_is_a_number():
    class Stated(Acme):
        API_VERSION = 1

    assert register_plugin(Stated(), "acme").api == 1


def test_an_argument_that_the_contract_lacks_is_refused_with_its_name():
    plugin = plugin_with(weights=hookimpl(lambda self, spec, revision: None))
    with pytest.raises(PluginError, match=r"'acme' \(registered\) .*\{'revision'\}"):
        register_plugin(plugin)
