"""The contract of plugins, which is stricter than pluggy."""

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


def test_a_hook_marked_for_another_project_is_refused():
    problem = contract_problem(plugin_with(build_model=foreign(build_model)))
    assert problem == "it defines build_model without headstrip's @hookimpl"


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper", "optionalhook"])
def test_hook_wrappers_and_optional_hooks_are_refused(option):
    marked = hookimpl(**{option: True})(lambda self: None)
    problem = contract_problem(plugin_with(weights=marked))
    assert problem == f"weights is marked {option}, which headstrip does not support"


def test_a_specname_is_refused():
    marked = hookimpl(specname="weights")(lambda self: None)
    assert "build is marked with a specname" in contract_problem(plugin_with(build=marked))
    assert "backbones is marked specname" in contract_problem(plugin_with(backbones=marked))


def test_a_hook_argument_with_a_default_value_is_refused():
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
def test_hook_arguments_that_are_not_plain_are_refused(function, shown):
    problem = contract_problem(plugin_with(weights=hookimpl(function)))
    assert problem == f"weights takes {shown}, and hooks must have plain arguments only"


def test_a_class_instead_of_an_instance_is_refused():
    assert contract_problem(Acme) == "it is the class Acme; its entry point must name an instance"


def test_the_error_for_a_misspelt_hook_suggests_the_right_name():
    problem = contract_problem(plugin_with(strip_haed=hookimpl(strip_head), FAMILIES=("net",)))
    assert "it marks strip_haed as a hook, and there is no hook" in problem
    assert problem.endswith("did you mean strip_head?")


def test_the_error_for_an_unknown_hook_names_it():
    problem = contract_problem(plugin_with(xyz=hookimpl(lambda self: None)))
    assert problem == "it marks xyz as a hook, and there is no hook of that name"


def test_a_plugin_without_hooks_is_refused():
    assert contract_problem(object()) == "it implements no hook"


def test_an_attribute_that_is_not_a_function_does_not_count_as_a_hook():
    assert contract_problem(plugin_with(weights=())) == "it implements no hook"


def test_families_and_strip_head_must_be_defined_together():
    only_one = "it defines only one of FAMILIES and strip_head, and must define both or neither"
    families = plugin_with(build_model=hookimpl(build_model), FAMILIES=("net",))
    assert contract_problem(families) == only_one
    assert contract_problem(plugin_with(strip_head=hookimpl(strip_head))) == only_one


@pytest.mark.parametrize("families", [["net"], "net", None, (1,), ("",), ("acme:net",)])
def test_families_that_are_not_a_tuple_of_bare_names_are_refused(families):
    problem = contract_problem(plugin_with(strip_head=hookimpl(strip_head), FAMILIES=families))
    assert problem == f"FAMILIES is {families!r}, and must be a tuple of names"


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_plugin_for_another_version_of_the_contract_is_refused(version):
    plugin = plugin_with(weights=hookimpl(lambda self: None), API_VERSION=version)
    assert f"built for version {version!r} of the plugin API" in contract_problem(plugin)


def test_the_record_has_the_api_version_of_the_plugin():
    class Stated(Acme):
        API_VERSION = 1

    assert register_plugin(Stated(), "acme").api == 1


def test_the_error_names_a_hook_argument_that_the_contract_lacks():
    plugin = plugin_with(weights=hookimpl(lambda self, spec, revision: None))
    with pytest.raises(PluginError, match=r"'acme' \(registered\) .*\{'revision'\}"):
        register_plugin(plugin)
