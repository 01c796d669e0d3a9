"""The smoke test of a plugin: its smallest backbone, built without memory and stripped."""

from __future__ import annotations

import warnings

from headstrip.errors import HeadstripError
from headstrip.factory.measure import measure
from headstrip.plugins.loader import Plugin, PluginRecord
from headstrip.registry.registry import Registry


def smoke_test(registry: Registry, name: str) -> PluginRecord:
    """Load one plugin, build and strip its smallest backbone, and return what is known then.

    Args:
        registry: Where the plugin is.
        name: Name of its entry point.

    Raises:
        PluginError: It is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
    """
    plugin = registry.load_plugin(name)
    if plugin.status == "loaded":
        plugin.error = _problem(registry, plugin) or plugin.error
        registry.refuse_if_strict(plugin.record)
    return plugin.record


def _problem(registry: Registry, plugin: Plugin) -> str | None:
    """Say what goes wrong when the smallest backbone is built and stripped, or None.

    A width other than the catalog's is such a thing.
    """
    specs = registry.specs_of(plugin.name)
    if not specs:
        if plugin.error is None and plugin.implements("backbones"):
            return (
                "it has the hook backbones and ships no catalog.tsv, so nobody can find them; "
                f"`headstrip catalog write {plugin.name}` writes one"
            )
        return None
    smallest = min(specs, key=lambda spec: spec.params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = measure(smallest, registry=registry)
        except HeadstripError as error:
            return str(error)
    if found.dim != smallest.dim:
        return (
            f"the catalog says width {smallest.dim} for {smallest.qualified_name!r}, and the "
            f"network has {found.dim}; `headstrip catalog write {smallest.plugin}` corrects it"
        )
    return None
