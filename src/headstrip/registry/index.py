"""The index: which backbones each source lists, and the tables of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from headstrip.families import BUILT_IN
from headstrip.registry.catalog import WeightsTable, read_catalog
from headstrip.spec import BackboneSpec, WeightsEntry, is_backbone


class Index:
    """Backbones by source and name: read from catalogs, registered, or described by a plugin."""

    def __init__(self) -> None:
        """Start empty."""
        self._specs: dict[str, dict[str, BackboneSpec]] = {}
        self._tables: dict[str, WeightsTable] = {}
        self._live: set[str] = set()
        self._in_files: set[str] = set()

    def read(
        self, source: str, folder: Path, problem_of: Callable[[BackboneSpec], str | None]
    ) -> list[str]:
        """Read ``catalog.tsv`` and ``weights.tsv`` of a folder, each if it exists.

        Args:
            source: The source that the files belong to.
            folder: The folder.
            problem_of: Returns why a row is refused, or None.

        Returns:
            One reason for each refused row.

        Raises:
            CatalogError: A file cannot be read. The index lists nothing of the source then.
        """
        catalog, table = folder / "catalog.tsv", folder / "weights.tsv"
        specs = read_catalog(catalog) if catalog.is_file() else []
        tables = {source: WeightsTable(table)} if table.is_file() else {}
        problems = {spec.name: problem_of(spec) for spec in specs}
        good = [spec for spec in specs if problems[spec.name] is None]
        if good:
            self.replace(source, good)
            self._in_files.add(source)
        self._tables.update(tables)
        return [problem for problem in problems.values() if problem is not None]

    def replace(self, source: str, specs: Iterable[BackboneSpec]) -> None:
        """Replace all backbones that a source lists by ``specs``."""
        self._in_files.discard(source)
        self._specs[source] = {spec.name: spec for spec in specs}

    def add_live(self, spec: BackboneSpec) -> None:
        """Add a backbone that a plugin described and no catalog lists."""
        self._specs.setdefault(spec.source, {})[spec.name] = spec
        self._live.add(spec.qualified_name)

    def find(self, source: str, name: str) -> BackboneSpec | None:
        """Return a backbone of a source, None if the source lists no such name.

        A backbone that a plugin described is not returned: the registry asks the plugin each time,
        because a folder may contain another network by now.
        """
        spec = self._specs.get(source, {}).get(name)
        is_live = spec is not None and self._live and spec.qualified_name in self._live
        return None if is_live else spec

    def is_in_file(self, spec: BackboneSpec) -> bool:
        """Whether a backbone was read from a catalog file."""
        return spec.source in self._in_files and spec.qualified_name not in self._live

    def entries(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...] | None:
        """Return the weights in the source's table, None if the registry must ask the plugin.

        Raises:
            CatalogError: A row cannot be read.
        """
        table = self._tables.get(spec.source)
        if table is None or spec.qualified_name in self._live:
            return None
        return table.entries(spec.name)

    def listed(self, blocked: Iterable[str]) -> dict[str, dict[str, BackboneSpec]]:
        """Return the backbones by source and name, without those of blocked plugins."""
        hidden = set(blocked)
        kept = {source: specs.copy() for source, specs in self._specs.items()}
        if hidden:
            kept = {
                source: {name: spec for name, spec in specs.items() if spec.plugin not in hidden}
                for source, specs in kept.items()
            }
        return {source: specs for source, specs in kept.items() if specs}


def row_problem(spec: BackboneSpec, owner: str) -> str | None:
    """Return why a plugin may not list a backbone with this description, or None."""
    if spec.source != owner:
        return f"{spec.name!r} claims the source {spec.source!r}, which is not {owner!r}"
    if spec.plugin != owner:
        return f"{spec.name!r} names the plugin {spec.plugin!r}, which is not {owner!r}"
    source, colon, _ = spec.family.partition(":")
    if (source != owner) if colon else (spec.family not in BUILT_IN):
        return (
            f"{spec.name!r} names the family {spec.family!r}, which belongs neither to {owner!r} "
            "nor to headstrip"
        )
    if not is_backbone(spec.name):
        return (
            f"{spec.name!r} does not have the form of a backbone's name, so no user can ask for it"
        )
    return None
