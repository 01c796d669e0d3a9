"""The public names of ``import headstrip``, and what the import loads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.distributions import run_python
from tests.light_modules import HEAVY, light_modules

import headstrip


def typed_names():
    """Return the names in the module's source that type checkers see."""
    tree = ast.parse(Path(headstrip.__file__).read_text(encoding="utf-8"))
    return {
        name.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.asname
    }


@pytest.mark.parametrize("name", headstrip.__all__)
def test_every_public_name_exists(name):
    assert getattr(headstrip, name) is not None


def test_public_names_match_those_of_type_checkers_and_completion():
    assert set(headstrip.__all__) == typed_names() | {"__version__"}
    assert dir(headstrip) == headstrip.__all__ == sorted(headstrip.__all__)


def test_an_unknown_name_raises_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'headstrip' has no attribute 'build'"):
        _ = headstrip.build


def test_importing_resolving_and_listing_import_no_heavy_package():
    code = (
        "import sys, importlib, headstrip\n"
        f"for name in {light_modules()!r}:\n"
        "    importlib.import_module(name)\n"
        "from headstrip.registry.registry import get_registry\n"
        "registry = get_registry()\n"
        "spec, parts = registry.resolve('resnet50.IMAGENET1K_V2')\n"
        "entries = registry.weights(spec)\n"
        "assert len(registry.labels(spec, entries[0])) == 1000\n"
        "assert len(registry.specs()) >= 89\n"
        "headstrip.register_plugin, headstrip.BackboneSpec, headstrip.Preprocessing\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)))\n"
    )
    result = run_python("-c", code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_a_pattern_of_the_light_modules_covers_each_module_of_a_room():
    assert {"headstrip", "headstrip.cli.list", "headstrip.plugins.loader"} <= set(light_modules())
    assert {"torch", "torchvision", "numpy"} <= HEAVY
