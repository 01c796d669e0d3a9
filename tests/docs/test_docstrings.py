"""Public names have docstrings, and the examples in them run."""

import doctest
import importlib
import inspect

import pytest
import torch

import headstrip
from headstrip.registry.registry import use_registry

MODULES = (
    "headstrip",
    "headstrip.compat.mteb",
    "headstrip.compat.wbcatt",
    "headstrip.testing",
    "headstrip.plugin_api",
)
NAMES = {
    name: getattr(importlib.import_module(module), name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
}
DOCUMENTED = {
    name: value
    for name, value in NAMES.items()
    if inspect.isclass(value) or inspect.isfunction(value)
}
FUNCTIONS = [name for name in headstrip.__all__ if inspect.isfunction(getattr(headstrip, name))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(name):
    value = DOCUMENTED[name]
    return [
        test
        for test in doctest.DocTestFinder().find(value, name, inspect.getmodule(value))
        if test.examples
    ]


@pytest.fixture(autouse=True)
def own_process_state(tmp_path, monkeypatch):
    """Run in an empty folder, without a network, and undo what examples set for the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")
    state = torch.get_rng_state()
    yield
    use_registry(None)
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_has_a_docstring(name):
    assert len(DOCUMENTED[name].__doc__.splitlines()[0]) > 10


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_an_example(name):
    assert examples(name)


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if examples(name)])
def test_the_examples_of_a_public_name_run(name):
    for test in examples(name):
        report = []
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
        assert report == []
