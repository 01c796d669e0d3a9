"""``headstrip catalog``: write or check the catalog of your plugin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import PARTLY, Failure, UsageFailure
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line, warn
from headstrip.plugins.entry_points import EntryPoint

if TYPE_CHECKING:
    from headstrip.authoring.catalog_writer import LiveRegistry, Rows

Changes = dict[str, list[str]]


@click.group(name="catalog")
def command() -> None:
    """Write or check the catalog of your plugin.

    headstrip calls the hooks backbones() and weights(spec) of the installed plugin NAME. It builds
    each backbone without allocating memory and without weights, removes the head, and measures
    the width.
    """


@command.command(name="write")
@click.argument("name")
@click.option(
    "--to",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write into this folder, such as src/headstrip_mylab.  [default: the installed "
    "package's folder]",
)
@json_option
@click.pass_context
def write_command(context: click.Context, name: str, folder: Path | None, as_json: bool) -> None:
    """Write catalog.tsv and weights.tsv, and print what changed.

    headstrip replaces both files, or neither if a backbone or its weights cannot be written as a
    row.
    """
    registry = _registry(context, name)
    target = folder or _package(registry)
    rows, files, changes = _measured(registry, target)
    if rows.problems:
        raise Failure(f"{' '.join(rows.problems)} Nothing was written.")
    from headstrip.authoring import catalog_writer as authoring

    try:
        authoring.write(target, files)
    except OSError as error:
        raise Failure(
            f"{str(target)!r} cannot be written to ({error.strerror}). Pass another folder with "
            "--to."
        ) from error
    _print(name, target, rows, changes, as_json)
    if folder is None and _is_copy(registry):
        warn(
            "Note: headstrip wrote into the installed copy of the plugin. To change your sources, "
            "install them with `pip install -e`, or pass their folder with --to."
        )


@command.command(name="check")
@click.argument("name")
@json_option
@click.pass_context
def check_command(context: click.Context, name: str, as_json: bool) -> None:
    """Compare the plugin's files with its backbones. The exit code is 1 if they differ."""
    registry = _registry(context, name)
    target = _package(registry)
    rows, _, changes = _measured(registry, target)
    for problem in rows.problems:
        warn(problem)
    _print(name, target, rows, changes, as_json)
    if rows.problems or any(changes.values()):
        context.exit(PARTLY)


def _registry(context: click.Context, name: str) -> LiveRegistry:
    """Return a registry that calls the plugin instead of reading its catalog.

    Raises:
        UsageFailure: No installed distribution has such a plugin.
    """
    records = [record for record in open_registry(context).records() if record.name == name]
    if all(record.origin == "built-in" for record in records):
        reason = "is part of headstrip" if records else "is not installed"
        raise UsageFailure(
            f"The plugin {name!r} {reason}. Pass the name of an installed third-party plugin; "
            "`headstrip plugins` lists them."
        )
    from headstrip.authoring.catalog_writer import LiveRegistry

    return LiveRegistry(name, context.find_root().params.get("no_plugin") or ())


def _package(registry: LiveRegistry) -> Path:
    """Return the folder of the plugin's package.

    Raises:
        PluginError: The plugin cannot be used.
        UsageFailure: The plugin is a single module, so it has no folder.
    """
    with plugins_on_stderr():
        plugin = registry.live()
    if plugin.package is None:
        raise UsageFailure(
            f"The plugin {plugin.label} is the module {plugin.module!r}, which cannot contain a "
            "catalog file. The author of the plugin can make it a package: a folder with "
            "an __init__.py."
        )
    return plugin.package


def _measured(registry: LiveRegistry, target: Path) -> tuple[Rows, dict[str, bytes], Changes]:
    """Measure the plugin's backbones, and compare them with the files in a folder."""
    from headstrip.authoring import catalog_writer as authoring

    with plugins_on_stderr():
        rows = authoring.live_rows(registry)
    files = authoring.contents(rows)
    return rows, files, authoring.changes(target, files)


def _is_copy(registry: LiveRegistry) -> bool:
    """Return whether the package is in the folder that pip installs into."""
    plugin = registry.live()
    site = plugin.target.site if isinstance(plugin.target, EntryPoint) else None
    if site is None or plugin.package is None:
        return False
    return plugin.package.resolve().is_relative_to(site.resolve())


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
