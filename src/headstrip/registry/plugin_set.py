"""The plugins that there are, and what their catalogs list."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from threading import RLock

from headstrip.errors import CatalogError, PluginError
from headstrip.families import BUILT_IN, SOURCE
from headstrip.plugins.loader import DISABLED, HOMES, Plugin, PluginRecord, built_in, find_plugins
from headstrip.registry.index import Index, row_problem
from headstrip.spec import BackboneSpec, is_source

CORE = Path(__file__).parents[1]
"""Where the core's own catalog is."""

RESERVED = frozenset({*BUILT_IN, SOURCE, "headstrip"})
"""Names that no third party's plugin can have."""

_DISABLE = "HEADSTRIP_DISABLE_PLUGINS"
_STRICT = "HEADSTRIP_STRICT_PLUGINS"


class PluginSet:
    """The core's plugins and the third parties', each loaded when it is needed.

    Reading the catalogs imports none of them. The third parties are looked for when something is
    asked for that is not core's.
    """

    def __init__(self, disabled: Iterable[str] = (), unread: Iterable[str] = ()) -> None:
        """Read the catalog of the core.

        Args:
            disabled: Names of plugins to block, besides those in ``HEADSTRIP_DISABLE_PLUGINS``.
            unread: Names of plugins whose catalogs are left aside, so that they are asked
                themselves.

        Raises:
            PluginError: A plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        names = {name.strip() for name in os.environ.get(_DISABLE, "").split(",")}
        self._strict = os.environ.get(_STRICT, "") == "1"
        self._disabled = {*names, *disabled} - {""}
        self._unread = set(unread)
        self._index = Index()
        self._known = {name: built_in(name, CORE) for name in BUILT_IN}
        self._looked = False
        self._lock = RLock()
        self._add_core()
        if self._strict:
            self._look()

    @property
    def disabled(self) -> frozenset[str]:
        """Names of the plugins that the user does not want; ``*`` is all but the built-in ones."""
        return frozenset(self._disabled)

    @property
    def _plugins(self) -> dict[str, Plugin]:
        """All plugins by name, the third parties' too."""
        self._look()
        return self._known

    def _look(self) -> None:
        """Read the catalogs of the plugins that metadata names, once."""
        with self._lock:
            if self._looked:
                return
            self._looked = True
            for plugin in find_plugins(self._disabled, RESERVED):
                # A name that is headstrip's own stays the built-in's; the intruder has a record.
                key = plugin.name if plugin.name not in self._known else f"{plugin.name} (intruder)"
                self._known[key] = plugin
                self._add_third_party(plugin)

    def _plugin(self, name: str) -> Plugin | None:
        return self._known.get(name) or self._plugins.get(name)

    def register(self, target: object, name: str) -> PluginRecord:
        """Add a plugin object under a name of its own; the same name again replaces it.

        Raises:
            PluginError: The name is taken, or the object breaks the contract.
        """
        before = self._plugins.get(name)
        if (before and before.origin != "registered") or name in {*RESERVED, *HOMES}:
            raise PluginError(
                f"The name {name!r} is taken by {before.label if before else 'headstrip itself'}. "
                "Register the plugin under another one."
            )
        if not is_source(name):
            raise PluginError(
                f"{name!r} cannot be a source. Begin with a letter or a digit, and use no more "
                "than those, '-' and '_'."
            )
        module = getattr(target, "__name__", type(target).__module__)
        plugin = Plugin(name, "registered", module, target)
        plugin.load()
        specs = plugin.call("backbones", name) or ()
        names = [spec.name for spec in specs]
        refused = [problem for spec in specs if (problem := row_problem(spec, name))]
        refused += [f"it names {one!r} twice" for one in names if names.count(one) > 1]
        if refused:
            raise PluginError(f"The plugin {plugin.label} was not registered: {refused[0]}.")
        self._plugins[name] = plugin
        self._index.replace(name, specs)
        plugin.rows = len(specs)
        return plugin.record

    def _add_core(self) -> None:
        self._index.read(SOURCE, CORE, lambda spec: None)
        listed = self._index.listed(()).get(SOURCE, {})
        for name in BUILT_IN:
            plugin = self._known[name]
            plugin.rows = sum(spec.plugin == name for spec in listed.values())
            if name in self._disabled:
                plugin.fail(DISABLED, "blocked")

    def _add_third_party(self, plugin: Plugin) -> None:
        package = None if plugin.name in self._unread else plugin.package
        if plugin.status == "found" and package is not None:
            try:
                refused = self._index.read(
                    plugin.name, package, partial(row_problem, owner=plugin.name)
                )
            except CatalogError as error:
                plugin.fail(str(error))
            else:
                plugin.rows = len(self._index.listed(()).get(plugin.name, {}))
                if refused:
                    plugin.error = f"{len(refused)} of its rows are refused: {refused[0]}"
        self.refuse_if_strict(plugin.record)

    def refuse_if_strict(self, record: PluginRecord) -> None:
        """Raise what is wrong with a plugin where the user asks for an error.

        Raises:
            PluginError: It is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        if self._strict and record.error not in (None, DISABLED):
            raise PluginError(
                f"The plugin {record.name!r} ({record.origin}) is unusable: "
                f"{str(record.error).rstrip('.')}. {_STRICT}=1 asks for an error; remove the "
                "plugin, or unset the variable."
            )

    def _listed(self) -> dict[str, dict[str, BackboneSpec]]:
        plugins = self._plugins
        return self._index.listed(name for name in BUILT_IN if plugins[name].status == "blocked")

    def _unusable(self) -> dict[str, str]:
        """Say of the installed plugins that are not in use why."""
        return {
            name: plugin.error
            for name, plugin in self._plugins.items()
            if plugin.error and plugin.status in {"blocked", "failed"}
        }

    def _loaded(self, name: str, about: str) -> Plugin:
        plugin = self._plugin(name)
        if plugin is None:
            raise PluginError(
                f"{about!r} needs the plugin {name!r}, which is not installed. "
                f"`pip install headstrip-{name}` may bring it."
            )
        plugin.load()
        return plugin
