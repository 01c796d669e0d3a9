"""Write a plugin's catalog files from its hooks, and compare existing files with them."""

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

# Weights come first: if writing stops after one file, no backbone names weights that do not exist.
FILES = ("weights.tsv", "catalog.tsv")
"""The files of a catalog, in the order of writing."""

_KEY_COLUMNS = {"weights.tsv": 2, "catalog.tsv": 1}


class LiveRegistry(Registry):
    """A registry that calls one plugin's hooks instead of reading its catalog files."""

    def __init__(self, name: str, disabled: Iterable[str] = ()) -> None:
        """Read the catalogs of all other plugins.

        Raises:
            PluginError: Another plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
        """
        # Another version of headstrip may have written the plugin's files, so do not read them.
        super().__init__(disabled, unread=[name])
        self.name = name

    def live(self) -> Plugin:
        """Load and return the plugin.

        Raises:
            PluginError: The plugin cannot be used, or is not installed.
        """
        return self._loaded(self.name, self.name)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows for a plugin's catalog files.

    Attributes:
        specs: Its backbones, sorted by name.
        weights: Pairs of backbone name and weights, sorted by name, each backbone's default first.
        problems: One sentence for each backbone that was left out.
    """

    specs: tuple[BackboneSpec, ...]
    weights: tuple[tuple[str, WeightsEntry], ...]
    problems: tuple[str, ...]


def live_rows(registry: LiveRegistry) -> Rows:
    """Call a plugin's hooks for its backbones and their weights, and measure each backbone.

    A plugin may return backbones with width and parameters 0, and with ``default_weights`` None if
    the first of its weights is the default.

    Raises:
        PluginError: The plugin cannot be used, or lists no backbones.
    """
    name, plugin = registry.name, registry.live()
    specs = plugin.call("backbones", name)
    if not specs:
        raise PluginError(
            f"The plugin {plugin.label} lists no backbones. "
            "Implement the hook backbones() and return one BackboneSpec for each."
        )
    found: dict[str, BackboneSpec] = {}
    pairs, problems = [], []
    for spec in sorted(specs, key=lambda spec: str(spec.name)):
        try:
            entries = _entries(registry, spec, name)
            if spec.name in found:
                raise PluginError(f"{name!r} lists {spec.name!r} twice. List it once.")
            default = entries[0].tag if entries else None
            chosen = replace(spec, default_weights=default)
            found[spec.name] = measure(chosen, registry=registry, sizes=True, maps=True)
            pairs += [(spec.name, entry) for entry in entries]
        except HeadstripError as error:
            problems.append(str(error))
    return Rows(tuple(found.values()), tuple(pairs), tuple(problems))


def _entries(registry: Registry, spec: BackboneSpec, owner: str) -> tuple[WeightsEntry, ...]:
    """Return the weights of a backbone.

    Raises:
        PluginError: The plugin must not list this backbone, or the default weights are not the
            first ones.
    """
    problem = row_problem(spec, owner)
    if problem:
        raise PluginError(f"{problem}. Correct what the hook backbones() returns.")
    entries = registry.weights(spec)
    tags = [entry.tag for entry in entries]
    if spec.default_weights not in {None, *tags[:1]}:
        raise PluginError(
            f"{spec.qualified_name} has default_weights={spec.default_weights!r}, but weights() "
            f"returns {tags[0] if tags else None!r} first. Return the default weights first, or "
            "leave default_weights out."
        )
    return entries


def contents(rows: Rows) -> dict[str, bytes]:
    """Return the content of each catalog file, by file name.

    Raises:
        CatalogError: Reading a value back would give another one, or two rows have the same name.
    """
    with TemporaryDirectory() as folder:
        write_weights(Path(folder, "weights.tsv"), rows.weights)
        write_catalog(Path(folder, "catalog.tsv"), rows.specs)
        return {file: Path(folder, file).read_bytes() for file in FILES}


def changes(folder: Path, files: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Compare the catalog files in a folder with their new content, row by row.

    Args:
        folder: Folder with the files. They may be missing.
        files: The result of ``contents``.

    Returns:
        For each file, one line per row that differs.
    """
    return {file: _file_changes(folder / file, files[file]) for file in FILES}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the catalog files; a failure leaves no partial file."""
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
    return lines or ["the rows had another order or another notation"]


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
