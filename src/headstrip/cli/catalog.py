"""``headstrip catalog``: the catalog of a plugin of your own, written and checked."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import PARTLY, Failure, UsageFailure
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line, warn

if TYPE_CHECKING:
    from headstrip.authoring.catalog_writer import LiveRegistry, Rows

Changes = dict[str, list[str]]


@click.group(name="catalog")
def command() -> None:
    """Write or check the catalog of a plugin of your own.

    The installed plugin NAME is asked for its backbones() and for the weights(spec) of each. Every
    backbone is built without memory and without weights, stripped, and measured.
    """


@command.command(name="write")
@click.argument("name")
@click.option(
    "--to",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder to write into.  [default: the folder of the plugin's package]",
)
@json_option
@click.pass_context
def write_command(context: click.Context, name: str, folder: Path | None, as_json: bool) -> None:
    """Write catalog.tsv and weights.tsv, and say what changed.

    Both are replaced whole, or not at all where the plugin has something that cannot be a row.
    """
    registry = _registry(context, name)
    target = folder or _package(registry)
    rows, files, changes = _asked(registry, target)
    if rows.problems:
        raise Failure(f"{' '.join(rows.problems)} Nothing was written.")
    from headstrip.authoring import catalog_writer as authoring

    try:
        authoring.write(target, files)
    except OSError as error:
        raise Failure(
            f"{str(target)!r} cannot be written to ({error.strerror}). `--to` names another folder."
        ) from error
    _print(name, target, rows, changes, as_json)
    if folder is None and _is_copy(registry):
        warn(
            "Note: that is the copy that is installed. For your sources install them with "
            "`pip install -e`, or name their folder with `--to`."
        )


@command.command(name="check")
@click.argument("name")
@json_option
@click.pass_context
def check_command(context: click.Context, name: str, as_json: bool) -> None:
    """Compare the plugin's files with what it shows now; exit code 1 where they differ."""
    registry = _registry(context, name)
    target = _package(registry)
    rows, _, changes = _asked(registry, target)
    for problem in rows.problems:
        warn(problem)
    _print(name, target, rows, changes, as_json)
    if rows.problems or any(changes.values()):
        context.exit(PARTLY)


def _registry(context: click.Context, name: str) -> LiveRegistry:
    """Return the registry in which the plugin is asked itself.

    Raises:
        UsageFailure: No distribution that is installed has such a plugin.
    """
    records = [record for record in open_registry(context).records() if record.name == name]
    if all(record.origin == "built-in" for record in records):
        reason = "is headstrip's own" if records else "is not installed"
        raise UsageFailure(
            f"The plugin {name!r} {reason}. Name the entry point of one of yours that is; "
            "`headstrip plugins` lists all of them."
        )
    from headstrip.authoring.catalog_writer import LiveRegistry

    return LiveRegistry(name, context.find_root().params.get("no_plugin") or ())


def _package(registry: LiveRegistry) -> Path:
    """Return the folder that ships with the plugin.

    Raises:
        PluginError: The plugin cannot be used.
        UsageFailure: It is a module without one.
    """
    with plugins_on_stderr():
        plugin = registry.live()
    if plugin.package is None:
        raise UsageFailure(
            f"The plugin {plugin.label} is the module {plugin.module!r} and no package, so no file "
            "can be shipped with it. Make it a package."
        )
    return plugin.package


def _asked(registry: LiveRegistry, target: Path) -> tuple[Rows, dict[str, bytes], Changes]:
    """Ask the plugin, and compare with the files of a folder."""
    from headstrip.authoring import catalog_writer as authoring

    with plugins_on_stderr():
        rows = authoring.live_rows(registry)
    files = authoring.contents(rows)
    return rows, files, authoring.changes(target, files)


def _is_copy(registry: LiveRegistry) -> bool:
    """Whether the package lies beside its metadata, where pip puts what it installs."""
    plugin = registry.live()
    distribution = plugin.target.dist if isinstance(plugin.target, metadata.EntryPoint) else None
    if distribution is None or plugin.package is None:
        return False
    site = Path(str(distribution.locate_file(""))).resolve()
    return plugin.package.resolve().is_relative_to(site)


def _print(name: str, target: Path, rows: Rows, changes: Changes, as_json: bool) -> None:
    counts = {"catalog.tsv": len(rows.specs), "weights.tsv": len(rows.weights)}
    if as_json:
        files: list[dict[str, Any]] = [
            {"path": str(target / file), "rows": count, "changes": changes[file]}
            for file, count in counts.items()
        ]
        print_json({"plugin": name, "files": files, "problems": rows.problems})
        return
    for file, count in counts.items():
        path = _shortest(target / file)
        rows_text = f"{count} row{'' if count == 1 else 's'}"
        rows_text += "" if changes[file] else ", nothing changed"
        print_line(f"{path}: {rows_text}")
        for line in changes[file]:
            print_line(f"  {line}")


def _shortest(path: Path) -> Path:
    resolved, here = path.resolve(), Path.cwd()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else path
