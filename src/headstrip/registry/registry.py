"""The registry: which backbones exist, which plugin owns each, and how a name is resolved."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from threading import RLock

from headstrip.errors import CatalogError, PluginError, UnknownBackboneError
from headstrip.families import BUILT_IN, SOURCE
from headstrip.plugins.loader import HOMES, Plugin, built_in, find_plugins
from headstrip.plugins.metadata_folders import damage_of
from headstrip.plugins.records import (
    DISABLED,
    PluginRecord,
    disabled_by_environment,
    is_strict,
    unusable,
)
from headstrip.registry.catalog import read_labels
from headstrip.registry.index import Index, row_problem
from headstrip.registry.suggestions import BARE_SOURCES as BARE_SOURCES
from headstrip.registry.suggestions import joined, unknown_backbone, unknown_source
from headstrip.spec import BackboneSpec, Name, WeightsEntry, is_source, parse_name

CORE = Path(__file__).parents[1]
"""Folder of headstrip's own catalog."""

RESERVED = frozenset({*BUILT_IN, SOURCE, "headstrip"})
"""Names that no third party's plugin can have."""


class Registry:
    """The backbones of all installed sources, and the plugins that own them.

    Reading the catalogs imports no plugin. The registry imports a plugin when a caller asks for one
    of its backbones or families. It searches the installed distributions for plugins when a
    caller asks for anything that is not headstrip's own.
    """

    def __init__(self, disabled: Iterable[str] = (), unread: Iterable[str] = ()) -> None:
        """Read headstrip's own catalog.

        Args:
            disabled: Names of plugins to block; ``HEADSTRIP_DISABLE_PLUGINS`` names more.
            unread: Names of plugins whose catalogs are not read, so that their hooks are called.

        Raises:
            PluginError: A plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        self.disabled = frozenset({*disabled_by_environment(), *disabled})
        self._unread = frozenset(unread)
        self._strict = is_strict()
        self._index = Index()
        self._known = {name: built_in(name, CORE) for name in BUILT_IN}
        self._has_searched = False
        self._lock = RLock()
        self._add_built_in()
        if self._strict:
            self._search()

    def specs(self) -> list[BackboneSpec]:
        """Return every backbone that the catalogs list, by source and name.

        Those of a disabled family are left out.
        """
        return [spec for source in self._listed().values() for spec in source.values()]

    def sources(self) -> list[str]:
        """Return the names of the sources that list at least one backbone."""
        return list(self._listed())

    def records(self) -> list[PluginRecord]:
        """Return the record of each plugin, without loading any."""
        return [plugin.record for plugin in self._plugins.values()]

    def specs_of(self, name: str) -> list[BackboneSpec]:
        """Return the backbones that a plugin's catalog lists."""
        return list(self._listed().get(name, {}).values())

    def resolve(self, name: str) -> tuple[BackboneSpec, Name]:
        """Find the one backbone with a given name.

        A bare name belongs to torchvision or else to timm, and to no other source.

        Args:
            name: ``[source:]arch[.weights]``.

        Returns:
            The backbone, and the parts of the name with the tag of its weights.

        Raises:
            UnknownBackboneError: No installed source has the name, or a bare name belongs to a
                source whose names need a prefix.
            PluginError: The plugin that owns the backbone cannot be used.
        """
        parts = parse_name(name)
        if parts.source is None:
            for source in BARE_SOURCES:
                spec = self._find(source, parts.backbone)
                if spec is not None:
                    return self._usable(spec), parts
            text = unknown_backbone(name, parts, self._listed(), self._unusable_plugins())
            raise UnknownBackboneError(
                text if "timm" in self._listed() else text + damage_of("timm")
            )
        if parts.source != SOURCE and (
            parts.source not in self._plugins or parts.source in RESERVED
        ):
            text = unknown_source(name, parts, self._listed())
            raise UnknownBackboneError(text + damage_of(parts.source))
        spec = self._find(parts.source, parts.backbone) or self._ask_plugins(parts)
        if spec is None:
            raise UnknownBackboneError(unknown_backbone(name, parts, self._listed(), {}))
        return self._usable(spec), parts

    def short_name(self, spec: BackboneSpec) -> str:
        """Return the shortest name of a backbone: bare, unless that belongs to another source."""
        owners = (source for source in BARE_SOURCES if self._find(source, spec.name))
        return spec.name if next(owners, None) == spec.source else spec.qualified_name

    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        """Return the sets of weights of a backbone, the default first.

        They are rows of its source's weights table. The registry asks the plugin if the source has
        no table, or no catalog lists the backbone.

        Raises:
            CatalogError: A row of the weights table cannot be read.
            PluginError: The plugin was asked and failed.
        """
        entries = self._table_entries(spec)
        if entries is not None:
            return entries
        owner = self.owner(spec)
        return tuple(owner.call("weights", spec.qualified_name, spec=spec) or ())

    def listed_weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        """Return the sets of weights that a table lists, without asking a plugin.

        Raises:
            CatalogError: A row of the weights table cannot be read.
        """
        return self._table_entries(spec) or ()

    def is_in_catalog(self, spec: BackboneSpec) -> bool:
        """Whether a catalog file lists a backbone."""
        self._search()
        return self._index.is_in_file(spec)

    def labels(self, spec: BackboneSpec, entry: WeightsEntry) -> tuple[str, ...] | None:
        """Return the class labels of a set of weights, in the order of the logits.

        Raises:
            CatalogError: The file of labels is missing, or its number of labels is not the number
                of classes.
        """
        if entry.class_names:
            return entry.class_names if len(entry.class_names) == entry.num_classes else None
        if entry.labels is None:
            return None
        plugin = self._plugin(spec.plugin)
        for folder in (plugin and plugin.package, CORE):
            path = folder / "labels" / f"{entry.labels}.txt" if folder else None
            if path and path.is_file():
                return read_labels(path, entry.num_classes)
        raise CatalogError(
            f"{spec.qualified_name}.{entry.tag} names the labels {entry.labels!r}, and no file "
            f"contains them. Report it to the author of the plugin {spec.plugin!r}."
        )

    def owner(self, spec: BackboneSpec) -> Plugin:
        """Return the loaded plugin that builds a backbone.

        Raises:
            PluginError: It cannot be used, or is not installed.
        """
        return self._loaded(spec.plugin, spec.qualified_name)

    def stripper(self, family: str) -> tuple[Plugin, str]:
        """Return the loaded plugin that takes the head off a family, and its name for the family.

        Args:
            family: A core family such as ``resnet``, or ``source:family``.

        Raises:
            PluginError: No plugin has the family, or the plugin that has it cannot be used.
        """
        source, _, own = str(family).rpartition(":")
        is_core = source in {"", SOURCE}
        if is_core and own not in BUILT_IN:
            from difflib import get_close_matches

            near = get_close_matches(own, BUILT_IN, n=3)
            advice = f"Did you mean {joined(near)}?" if near else f"Choose {joined(BUILT_IN)}."
            raise PluginError(
                f"There is no family {family!r}. {advice} Write source:family for the family of "
                "another source."
            )
        plugin = self._loaded(own if is_core else source, str(family))
        if own not in plugin.families:
            raise PluginError(
                f"The plugin {plugin.label} has no family {own!r}. "
                f"Its families: {', '.join(plugin.families) or 'none'}."
            )
        return plugin, own

    def register(self, target: object, name: str) -> PluginRecord:
        """Add a plugin object under a name; registering the name again replaces the object.

        Raises:
            PluginError: The name is taken, or the object breaks the contract.
        """
        before = self._plugins.get(name)
        if (before and before.origin != "registered") or name in {*RESERVED, *HOMES}:
            raise PluginError(
                f"The name {name!r} is taken by {before.label if before else 'headstrip itself'}. "
                "Register the plugin under another name."
            )
        if not is_source(name):
            raise PluginError(
                f"{name!r} cannot be the name of a source. Begin with a letter or a digit, and use "
                "only letters, digits, '-' and '_'."
            )
        module = getattr(target, "__name__", type(target).__module__)
        plugin = Plugin(name, "registered", module, target)
        plugin.load()
        specs = plugin.call("backbones", name) or ()
        names = [spec.name for spec in specs]
        problems = [problem for spec in specs if (problem := row_problem(spec, name))]
        problems += [f"it names {one!r} twice" for one in names if names.count(one) > 1]
        if problems:
            raise PluginError(
                f"The plugin {plugin.label} was not registered: {problems[0]}. Correct the plugin, "
                "and register it again."
            )
        self._plugins[name] = plugin
        self._index.replace(name, specs)
        plugin.rows = len(specs)
        return plugin.record

    def load_plugin(self, name: str) -> Plugin:
        """Load one plugin, and return it. If that fails, its record has the reason.

        Raises:
            PluginError: The plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        plugin = self._plugins[name]
        try:
            plugin.load()
        except PluginError:
            if self._strict:
                raise
        return plugin

    def refuse_if_strict(self, record: PluginRecord) -> None:
        """Raise an error for an unusable plugin if the user asked for that.

        Raises:
            PluginError: The plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        if self._strict and record.error not in (None, DISABLED):
            raise unusable(record)

    @property
    def _plugins(self) -> dict[str, Plugin]:
        """All plugins by name, third parties' included."""
        self._search()
        return self._known

    def _plugin(self, name: str) -> Plugin | None:
        return self._known.get(name) or self._plugins.get(name)

    def _search(self) -> None:
        """Find the plugins of installed distributions and read their catalogs, once."""
        with self._lock:
            if self._has_searched:
                return
            self._has_searched = True
            for plugin in find_plugins(self.disabled, RESERVED):
                # A built-in plugin keeps its name; the record of the other one says why it failed.
                key = plugin.name if plugin.name not in self._known else f"{plugin.name} (intruder)"
                self._known[key] = plugin
                self._add_third_party(plugin)

    def _add_built_in(self) -> None:
        self._index.read(SOURCE, CORE, lambda spec: None)
        listed = self._index.listed(()).get(SOURCE, {})
        for name in BUILT_IN:
            plugin = self._known[name]
            plugin.rows = sum(spec.plugin == name for spec in listed.values())
            if name in self.disabled:
                plugin.fail(DISABLED, "blocked")

    def _add_third_party(self, plugin: Plugin) -> None:
        package = None if plugin.name in self._unread else plugin.package
        if plugin.status == "found" and package is not None:
            problem_of = partial(row_problem, owner=plugin.name)
            try:
                problems = self._index.read(plugin.name, package, problem_of)
            except CatalogError as error:
                plugin.fail(str(error))
            else:
                plugin.rows = len(self._index.listed(()).get(plugin.name, {}))
                if problems:
                    plugin.error = f"{len(problems)} of its rows are refused: {problems[0]}"
        self.refuse_if_strict(plugin.record)

    def _listed(self) -> dict[str, dict[str, BackboneSpec]]:
        plugins = self._plugins
        return self._index.listed(name for name in BUILT_IN if plugins[name].status == "blocked")

    def _unusable_plugins(self) -> dict[str, str]:
        """Return the plugins that are installed and not in use, with the reasons."""
        return {
            name: plugin.error
            for name, plugin in self._plugins.items()
            if plugin.error and plugin.status in {"blocked", "failed"}
        }

    def _find(self, source: str, name: str) -> BackboneSpec | None:
        if source != SOURCE:
            self._search()
        return self._index.find(source, name)

    def _table_entries(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...] | None:
        if spec.source != SOURCE:
            self._search()
        return self._index.entries(spec)

    def _ask_plugins(self, parts: Name) -> BackboneSpec | None:
        """Ask the plugins of a source for a backbone that its catalog lacks."""
        name, source = parts.backbone, parts.source or SOURCE
        is_core = source == SOURCE
        plugins = self._known if is_core else self._plugins
        for plugin in [plugins[key] for key in (BUILT_IN if is_core else (source,))]:
            if is_core and plugin.status == "blocked":
                continue
            spec: BackboneSpec | None = plugin.call("find_backbone", f"{source}:{name}", name=name)
            if spec is None:
                continue
            problem = None if is_core else row_problem(spec, plugin.name)
            if problem is None and spec.name != name:
                problem = f"it describes {spec.name!r} when headstrip asks for {name!r}"
            if problem:
                raise PluginError(
                    f"headstrip refuses what find_backbone of the plugin {plugin.label} returned: "
                    f"{problem}. Report it to the plugin's author."
                )
            self._index.add_live(spec)
            return spec
        return None

    def _loaded(self, name: str, about: str) -> Plugin:
        plugin = self._plugin(name)
        if plugin is None:
            raise PluginError(
                f"{about!r} needs the plugin {name!r}, which is not installed. "
                f"Try `pip install headstrip-{name}`."
            )
        plugin.load()
        return plugin

    def _usable(self, spec: BackboneSpec) -> BackboneSpec:
        """Return a backbone, or raise if its family is disabled: the name stays reserved."""
        plugin = self._plugin(spec.plugin)
        assert plugin is not None
        if plugin.status == "blocked":
            plugin.load()
        return spec


_current: Registry | None = None


def get_registry() -> Registry:
    """Return the registry of this process, made on first use."""
    global _current
    if _current is None:
        _current = Registry()
    return _current


def use_registry(registry: Registry | None) -> None:
    """Replace the registry of this process; with None the next use makes a new one."""
    global _current
    _current = registry


def register_plugin(plugin: object, name: str | None = None) -> PluginRecord:
    """Add a plugin that lives in this process, such as one written in a notebook.

    It does what an entry point does: ``build_encoder("name:...")`` builds the backbones that the
    plugin's hook ``backbones`` lists. Registering the same name again replaces the plugin.

    Args:
        plugin: An object with functions marked ``@hookimpl``.
        name: Name of the plugin and of its source; by default that of the object's class.

    Returns:
        The record of the plugin: its name, its status and how many backbones it lists.

    Raises:
        PluginError: The name is taken, or the object breaks the contract.

    Example:
        >>> from headstrip import BackboneSpec, hookimpl
        >>> class Pixels:
        ...     @hookimpl
        ...     def backbones(self):
        ...         return (
        ...             BackboneSpec("rgb", "mylab", "vgg", "mylab", "image", (3, 8, 8), 192, 1930),
        ...         )
        >>> record = register_plugin(Pixels(), "mylab")
        >>> record.status, record.rows
        ('loaded', 1)
    """
    default = getattr(plugin, "__name__", type(plugin).__name__)
    return get_registry().register(plugin, name or str(default).rpartition(".")[2].lower())
