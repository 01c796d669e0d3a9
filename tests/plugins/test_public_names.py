"""The plugins of this repository use only public names, and state their API version."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import headstrip
from headstrip import contract, hookspecs, plugin_api
from headstrip.authoring.new_plugin import NewPlugin
from headstrip.errors import PluginError
from headstrip.registry.registry import Registry

tomllib = pytest.importorskip("tomllib", reason="the standard library has it from 3.11 on")

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(
    path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists()
)
SOURCES = [*(file for plugin in PLUGINS for file in sorted((plugin / "src").rglob("*.py")))]
MODULES = {
    "example": "headstrip_example",
    "timm": "headstrip_timm.plugin",
    "hf": "headstrip_transformers.plugin",
    "efficientnet-lite": "headstrip_efficientnet_lite.plugin",
}


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_plugin_imports_only_public_names(file):
    public = {
        "headstrip": set(headstrip.__all__),
        "headstrip.plugin_api": set(plugin_api.__all__),
    }
    used = [
        (module, name)
        for module, name in imported(ast.parse(file.read_text(encoding="utf-8")))
        if module.partition(".")[0] == "headstrip"
    ]
    assert [(module, name) for module, name in used if name not in public.get(module, ())] == []


def test_every_public_name_for_plugins_exists():
    assert plugin_api.__all__ == sorted(plugin_api.__all__)
    assert all(getattr(plugin_api, name) is not None for name in plugin_api.__all__)


def requirements(text: str) -> list[Requirement]:
    return [Requirement(one) for one in tomllib.loads(text)["project"]["dependencies"]]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_requires_releases_that_keep_its_contract(plugin):
    text = (plugin / "pyproject.toml").read_text(encoding="utf-8")
    (core,) = [one for one in requirements(text) if one.name == "headstrip"]
    assert headstrip.__version__ in core.specifier
    assert not core.specifier.contains("0.2.0") or headstrip.__version__ >= "0.2"


def test_a_new_plugin_states_its_api_version_and_required_headstrip():
    files = NewPlugin("mylab").files()
    (core,) = requirements(files["pyproject.toml"])
    assert core.specifier.contains(headstrip.__version__)
    assert len(core.specifier) == 2
    stated = f"API_VERSION, FAMILIES = {hookspecs.API_VERSION}, ("
    assert stated in files["src/headstrip_mylab/__init__.py"]


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_a_plugin_states_the_current_api_version(module):
    plugin = importlib.import_module(module)
    assert plugin.API_VERSION == hookspecs.API_VERSION
    assert contract.contract_problem(plugin) is None


def test_the_built_in_plugins_have_the_current_api_version():
    registry = Registry(disabled=["*"])
    plugin, _ = registry.stripper("resnet")
    assert plugin.record.api == hookspecs.API_VERSION


class Stateless:
    """A plugin that states no API version."""

    @headstrip.hookimpl
    def weights(self, spec):
        return ()


@pytest.fixture
def next_version(monkeypatch):
    for module in (hookspecs, contract):
        monkeypatch.setattr(module, "API_VERSION", 2)


def test_a_plugin_without_an_api_version_counts_as_version_1(next_version):
    problem = contract.contract_problem(Stateless())
    assert problem == "it was built for version 1 of the plugin API, and this is 2"
    with pytest.raises(PluginError, match="built for version 1 of the plugin API"):
        Registry(disabled=["*"]).register(Stateless(), "mylab")


@pytest.mark.parametrize("version", [True, 1.0])
def test_an_api_version_that_is_not_an_integer_is_refused(version):
    plugin = Stateless()
    plugin.API_VERSION = version
    assert "was built for version" in contract.contract_problem(plugin)
