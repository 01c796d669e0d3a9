"""The registry: which names there are, whose each one is, and who takes which head off."""

from __future__ import annotations

import difflib

from headstrip.errors import CatalogError, PluginError, UnknownBackboneError
from headstrip.families import BUILT_IN, SOURCE
from headstrip.plugins.loader import Plugin, PluginRecord
from headstrip.plugins.metadata_folders import damage_of
from headstrip.registry.catalog import read_labels
from headstrip.registry.index import row_problem
from headstrip.registry.plugin_set import CORE, RESERVED, PluginSet
from headstrip.registry.suggestions import BARE_SOURCES as BARE_SOURCES
from headstrip.registry.suggestions import joined, unknown_backbone, unknown_source
from headstrip.spec import BackboneSpec, Name, WeightsEntry, parse_name


class Registry(PluginSet):
    """The names of all installed sources, and the plugins behind them.

    Reading the catalogs imports no plugin. A plugin is imported when a backbone of its own, or a
    family of its own, is asked for. The third parties are looked for when a name is not core's.
    """

    def _entries(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...] | None:
        if spec.source != SOURCE:
            self._look()
        return self._index.entries(spec)

    def _find(self, source: str, name: str) -> BackboneSpec | None:
        if source != SOURCE:
            self._look()
        return self._index.find(source, name)

    def specs(self) -> list[BackboneSpec]:
        """Return every backbone that the catalogs list, by source and name.

        Those of a family that is disabled are left out.
        """
        return [spec for source in self._listed().values() for spec in source.values()]

    def sources(self) -> list[str]:
        """Return the names of the sources that list any backbone."""
        return list(self._listed())

    def records(self) -> list[PluginRecord]:
        """Return what is known of each plugin, without loading any."""
        return [plugin.record for plugin in self._plugins.values()]

    def load_plugin(self, name: str) -> Plugin:
        """Load one plugin, and return it with the reason where that failed.

        Raises:
            PluginError: It is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        plugin = self._plugins[name]
        try:
            plugin.load()
        except PluginError:
            if self._strict:
                raise
        return plugin

    def specs_of(self, name: str) -> list[BackboneSpec]:
        """Return the backbones that a plugin's catalog lists."""
        return list(self._listed().get(name, {}).values())

    def resolve(self, name: str) -> tuple[BackboneSpec, Name]:
        """Find the one backbone that a name means.

        A bare name is torchvision's, else timm's, and nobody else's.

        Args:
            name: ``[source:]arch[.weights]``.

        Returns:
            The backbone, and the parts of the name with the tag of its weights.

        Raises:
            UnknownBackboneError: The name is nobody's, or only another source has it.
            PluginError: The plugin that owns it cannot be used.
        """
        parts = parse_name(name)
        if parts.source is None:
            for source in BARE_SOURCES:
                spec = self._find(source, parts.backbone)
                if spec is not None:
                    return self._usable(spec), parts
            text = unknown_backbone(name, parts, self._listed(), self._unusable())
            raise UnknownBackboneError(
                text if "timm" in self._listed() else text + damage_of("timm")
            )
        if parts.source != SOURCE and not self._is_source(parts.source):
            text = unknown_source(name, parts, self._listed())
            raise UnknownBackboneError(text + damage_of(parts.source))
        spec = self._find(parts.source, parts.backbone) or self._ask(parts)
        if spec is None:
            raise UnknownBackboneError(unknown_backbone(name, parts, self._listed(), {}))
        return self._usable(spec), parts

    def short_name(self, spec: BackboneSpec) -> str:
        """Return the shortest name that means a backbone: bare where that is not another's."""
        owners = (source for source in BARE_SOURCES if self._find(source, spec.name))
        return spec.name if next(owners, None) == spec.source else spec.qualified_name

    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        """Return the sets of weights of a backbone, the default first.

        They are read from the weights table of its source; the plugin is asked for a backbone
        that no catalog lists, and where the source has no table.

        Raises:
            CatalogError: A row of the weights table cannot be read.
            PluginError: The owner was asked and failed.
        """
        entries = self._entries(spec)
        if entries is not None:
            return entries
        owner = self.owner(spec)
        return tuple(owner.call("weights", spec.qualified_name, spec=spec) or ())

    def is_in_catalog(self, spec: BackboneSpec) -> bool:
        """Whether a catalog file lists a backbone, and not only a plugin of this process."""
        self._look()
        return self._index.is_in_file(spec)

    def listed_weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        """Return the sets of weights that a table lists; no plugin is asked.

        Raises:
            CatalogError: A row of the weights table cannot be read.
        """
        return self._entries(spec) or ()

    def labels(self, spec: BackboneSpec, entry: WeightsEntry) -> tuple[str, ...] | None:
        """Return the class labels of a set of weights, in the order of the logits.

        Raises:
            CatalogError: The file of labels is missing, or has not one label a class.
        """
        if entry.labels is None:
            return None
        plugin = self._plugin(spec.plugin)
        for folder in (plugin and plugin.package, CORE):
            path = folder / "labels" / f"{entry.labels}.txt" if folder else None
            if path and path.is_file():
                return read_labels(path, entry.num_classes)
        raise CatalogError(
            f"{spec.qualified_name}.{entry.tag} names the labels {entry.labels!r}, and no file has "
            f"them. Report it to whoever brings the plugin {spec.plugin!r}."
        )

    def owner(self, spec: BackboneSpec) -> Plugin:
        """Return the loaded plugin that builds a backbone.

        Raises:
            PluginError: It cannot be used, or there is none of that name.
        """
        return self._loaded(spec.plugin, spec.qualified_name)

    def stripper(self, family: str) -> tuple[Plugin, str]:
        """Return the loaded plugin that takes the head off a family, and its name for it.

        Args:
            family: A core family such as ``resnet``, or ``source:family``.

        Raises:
            PluginError: No plugin has the family, or the one that has it cannot be used.
        """
        source, _, own = str(family).rpartition(":")
        core = source in {"", SOURCE}
        if core and own not in BUILT_IN:
            near = difflib.get_close_matches(own, BUILT_IN, n=3) or BUILT_IN
            raise PluginError(
                f"There is no family {family!r}. The core has {joined(near)}; another source's is "
                "written source:family."
            )
        plugin = self._loaded(own if core else source, str(family))
        if own not in plugin.families:
            raise PluginError(
                f"The plugin {plugin.label} has no family {own!r}. "
                f"It has {', '.join(plugin.families) or 'none'}."
            )
        return plugin, own

    def _ask(self, parts: Name) -> BackboneSpec | None:
        """Ask the live plugins of a source for a name that its catalog lacks."""
        name, source = parts.backbone, parts.source or SOURCE
        plugins = self._known if source == SOURCE else self._plugins
        for plugin in [plugins[key] for key in (BUILT_IN if source == SOURCE else (source,))]:
            if source == SOURCE and plugin.status == "blocked":
                continue
            spec: BackboneSpec | None = plugin.call("find_backbone", f"{source}:{name}", name=name)
            if spec is None:
                continue
            problem = row_problem(spec, plugin.name) if source != SOURCE else None
            if problem is None and spec.name != name:
                problem = f"asked for {name!r}, it describes {spec.name!r}"
            if problem:
                raise PluginError(f"The answer of the plugin {plugin.label} is refused: {problem}.")
            self._index.add_live(spec)
            return spec
        return None

    def _is_source(self, name: str) -> bool:
        return name in self._plugins and name not in RESERVED

    def _usable(self, spec: BackboneSpec) -> BackboneSpec:
        """Return a backbone whose name is not given to others while its family is disabled."""
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
    """Make ``registry`` that of this process; None has it made anew on next use."""
    global _current
    _current = registry


def register_plugin(plugin: object, name: str | None = None) -> PluginRecord:
    """Add a plugin that lives in this process, such as one written in a notebook.

    It does what an entry point does: the backbones that its hook ``backbones`` lists are built
    by ``build_encoder("name:...")``. Registering the same name again replaces it.

    Args:
        plugin: An object with functions marked ``@hookimpl``.
        name: Name of the plugin and of its source; by default that of the object's class.

    Returns:
        What is known of the plugin now.

    Raises:
        PluginError: The name is taken, or the object breaks the contract.
    """
    default = getattr(plugin, "__name__", type(plugin).__name__)
    return get_registry().register(plugin, name or str(default).rpartition(".")[2].lower())
