"""The catalog of a plugin, asked of the plugin itself, and what its files say otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from headstrip.errors import HeadstripError, PluginError
from headstrip.factory.measure import measure
from headstrip.plugins.loader import Plugin
from headstrip.registry.catalog import write_catalog, write_weights
from headstrip.registry.index import row_problem
from headstrip.registry.registry import Registry
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.system.atomic import write_atomically

# Weights first: where the second is not written any more, no row names weights that no table has.
FILES = ("weights.tsv", "catalog.tsv")
"""The files of a catalog, in the order in which they are written."""

_KEY_COLUMNS = {"weights.tsv": 2, "catalog.tsv": 1}


class LiveRegistry(Registry):
    """A registry that does not read the files of one plugin, and so asks the plugin itself."""

    def __init__(self, name: str, disabled: Iterable[str] = ()) -> None:
        """Read the catalogs of all others.

        Raises:
            PluginError: Another plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        # Its files may be those of another version of headstrip, which this one cannot read.
        super().__init__(disabled, unread=[name])
        self.name = name

    def live(self) -> Plugin:
        """Return the one plugin, loaded.

        Raises:
            PluginError: It cannot be used, or is not installed.
        """
        return self._loaded(self.name, self.name)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a plugin has, measured.

    Attributes:
        specs: Its backbones by name.
        weights: Pairs of backbone and weights, by name, each backbone's default first.
        problems: Why others are left out, a sentence each.
    """

    specs: tuple[BackboneSpec, ...]
    weights: tuple[tuple[str, WeightsEntry], ...]
    problems: tuple[str, ...]


def live_rows(registry: LiveRegistry) -> Rows:
    """Ask a plugin for its backbones and their weights, and measure each backbone.

    A backbone may leave its width and its parameters 0, and its ``default_weights`` None where the
    first of its weights is the default.

    Raises:
        PluginError: The plugin cannot be used, or lists no backbones.
    """
    name, plugin = registry.name, registry.live()
    specs = plugin.call("backbones", name)
    if not specs:
        raise PluginError(
            f"The plugin {plugin.label} lists no backbones. "
            "Give it the hook backbones(), which returns a BackboneSpec for each."
        )
    found: dict[str, BackboneSpec] = {}
    pairs, problems = [], []
    for spec in sorted(specs, key=lambda spec: str(spec.name)):
        try:
            entries = _entries(registry, spec, name)
            if spec.name in found:
                raise PluginError(f"{name!r} lists {spec.name!r} twice. List it once.")
            default = entries[0].tag if entries else None
            found[spec.name] = measure(replace(spec, default_weights=default), registry=registry)
            pairs += [(spec.name, entry) for entry in entries]
        except HeadstripError as error:
            problems.append(str(error))
    return Rows(tuple(found.values()), tuple(pairs), tuple(problems))


def _entries(registry: Registry, spec: BackboneSpec, owner: str) -> tuple[WeightsEntry, ...]:
    """Ask for the weights of a backbone that the plugin may list.

    Raises:
        PluginError: It may not, or it names another default than the first.
    """
    problem = row_problem(spec, owner)
    if problem:
        raise PluginError(f"{problem}. Correct what the hook backbones() returns.")
    entries = registry.weights(spec)
    tags = [entry.tag for entry in entries]
    if spec.default_weights not in {None, *tags[:1]}:
        raise PluginError(
            f"{spec.qualified_name} names the default weights {spec.default_weights!r}, and the "
            f"first that weights() returns are {tags[0] if tags else None!r}. Return those first, "
            "or leave default_weights out."
        )
    return entries


def contents(rows: Rows) -> dict[str, bytes]:
    """Return what the files of a catalog hold, by file.

    Raises:
        CatalogError: A value would not be read back as it is, or two rows share a name.
    """
    with TemporaryDirectory() as folder:
        write_weights(Path(folder, "weights.tsv"), rows.weights)
        write_catalog(Path(folder, "catalog.tsv"), rows.specs)
        return {file: Path(folder, file).read_bytes() for file in FILES}


def changes(folder: Path, files: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Say row by row how the files in a folder differ from what they should hold.

    Args:
        folder: Where they are, or are not yet.
        files: What ``contents`` returned.

    Returns:
        By file, a line a row; none for a file that is as it should be.
    """
    return {file: _file_changes(folder / file, files[file]) for file in FILES}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a catalog, each whole or not at all."""
    for file in FILES:
        write_atomically(folder / file, files[file])


def _file_changes(path: Path, data: bytes) -> list[str]:
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        return ["there was no file"]
    if before == data:
        return []
    keys = _KEY_COLUMNS[path.name]
    columns, new = _table(data, keys)
    old_columns, old = _table(before, keys)
    if columns != old_columns:
        return ["the file had other columns"]
    lines = [f"{key}: removed" for key in old if key not in new]
    for key, row in new.items():
        if key not in old:
            lines.append(f"{key}: added")
        elif row != old[key]:
            lines.append(f"{key}: {_row_changes(columns, old[key], row)}")
    return lines or ["the rows were in another order, or written otherwise"]


def _table(data: bytes, keys: int) -> tuple[list[str], dict[str, list[str]]]:
    """Return the columns of a file, and its rows by name."""
    columns, *rows = [line.split("\t") for line in data.decode(errors="replace").split("\n")]
    return columns, {".".join(row[:keys]): row for row in rows if row != [""]}


def _row_changes(columns: list[str], old: list[str], new: list[str]) -> str:
    if len(old) != len(new):
        return "it had another number of columns"
    return ", ".join(
        f"{column} {before or 'nothing'} -> {after or 'nothing'}"
        for column, before, after in zip(columns, old, new, strict=True)
        if before != after
    )
