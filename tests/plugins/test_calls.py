"""A hook call returns a value that fits the contract, or raises an error that names the plugin."""

from __future__ import annotations

import pytest
from tests.plugins.acme import Acme, answering, ask, plugin_with

from headstrip import HeadNotFoundError, PluginError, WeightsError, hookimpl
from headstrip.plugins.loader import Plugin
from headstrip.plugins.validation import HOOKS, REQUIRED


def plugin_of(target):
    return Plugin("acme", "acme-networks 2.1", "acme.plugin", target)


def raising(hook, error):
    def function(self):
        raise error

    families = {"FAMILIES": ("net",)} if hook == "strip_head" else {}
    return plugin_of(plugin_with(**{hook: hookimpl(function)}, **families))


@pytest.mark.parametrize("hook", HOOKS)
def test_the_error_of_a_hook_names_its_plugin_hook_and_backbone(hook):
    error = KeyError("depth")
    with pytest.raises(PluginError) as caught:
        ask(raising(hook, error), hook)
    assert str(caught.value) == (
        f"The plugin 'acme' (acme-networks 2.1) raised KeyError: 'depth' in {hook} for 'acme:net'. "
        "Check the arguments that you passed, or report the error to the plugin's author."
    )
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), RecursionError("too deep")])
def test_a_hook_cannot_end_the_callers_program(error):
    with pytest.raises(PluginError, match=f"raised {type(error).__name__}"):
        ask(raising("build_model", error), "build_model")


def test_a_keyboard_interrupt_in_a_hook_passes_through():
    with pytest.raises(KeyboardInterrupt):
        ask(raising("build_model", KeyboardInterrupt()), "build_model")


@pytest.mark.parametrize("error", [HeadNotFoundError("no fc"), WeightsError("no file")])
def test_headstrips_own_errors_from_a_hook_pass_through_unchanged(error):
    with pytest.raises(type(error)) as caught:
        ask(raising("strip_head", error), "strip_head")
    assert caught.value is error


def test_an_error_of_several_lines_is_shown_in_one_line():
    with pytest.raises(PluginError, match="raised ValueError: first second in weights"):
        ask(raising("weights", ValueError("first\n   second\n")), "weights")


def test_the_error_for_a_wrong_return_value_names_plugin_hook_and_backbone():
    with pytest.raises(PluginError) as caught:
        ask(plugin_of(answering("build_model", {})), "build_model")
    assert str(caught.value) == (
        "The plugin 'acme' (acme-networks 2.1) returned a dict instead of a Module from "
        "build_model for 'acme:net'. Report it to the plugin's author."
    )


@pytest.mark.parametrize("hook", sorted(REQUIRED))
def test_the_error_names_a_missing_required_hook(hook):
    plugin = plugin_of(answering("preprocessing", None))
    with pytest.raises(PluginError, match=f"does not implement {hook}, which 'acme:net' needs"):
        ask(plugin, hook)


@pytest.mark.parametrize("hook", sorted(set(HOOKS) - REQUIRED - {"preprocessing"}))
def test_a_missing_optional_hook_gives_none(hook):
    assert ask(plugin_of(answering("preprocessing", None)), hook) is None


def test_a_plugin_that_failed_to_load_keeps_its_error():
    plugin = plugin_of(Acme)
    for _ in range(2):
        with pytest.raises(PluginError, match="cannot be used: it is the class Acme"):
            plugin.load()
    assert plugin.record.status == "failed"


def test_a_keyboard_interrupt_during_loading_is_not_a_failure():
    class Interrupting(Acme):
        @property
        def API_VERSION(self):
            raise KeyboardInterrupt

    plugin = plugin_of(Interrupting())
    with pytest.raises(KeyboardInterrupt):
        plugin.load()
    assert plugin.record.status == "found"
