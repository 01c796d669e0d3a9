"""The smoke test of a plugin: build its smallest backbone on the meta device and strip it."""

from __future__ import annotations

import warnings

from headstrip.errors import HeadstripError
from headstrip.factory.measure import measure
from headstrip.plugins.loader import Plugin, PluginRecord
from headstrip.registry.registry import Registry


def smoke_test(registry: Registry, name: str) -> PluginRecord:
    """Load one plugin, build and strip its smallest backbone, and return its record.

    Args:
        registry: The registry that lists the plugin.
        name: Name of its entry point.

    Raises:
        PluginError: The plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
    """
    plugin = registry.load_plugin(name)
    if plugin.status == "loaded":
        plugin.error = _problem(registry, plugin) or plugin.error
        registry.refuse_if_strict(plugin.record)
    return plugin.record


def _problem(registry: Registry, plugin: Plugin) -> str | None:
    """Build and strip the smallest backbone, and return the problem, or None.

    A width that differs from the catalog's is also a problem.
    """
    specs = registry.specs_of(plugin.name)
    if not specs:
        if plugin.error is None and plugin.implements("backbones"):
            return (
                "it has the hook backbones() but no catalog.tsv, so its backbones cannot be found; "
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
            f"the catalog claims width {smallest.dim} for {smallest.qualified_name!r}, but the "
            f"network has {found.dim}; `headstrip catalog write {smallest.plugin}` corrects it"
        )
    return None
