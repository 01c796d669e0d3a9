"""``headstrip new-plugin``: the folder of a plugin of your own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from headstrip.authoring.new_plugin import NewPlugin, name_problem, write_plugin
from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import Failure, UsageFailure
from headstrip.cli.output import json_option, print_json, print_line
from headstrip.registry.registry import Registry
from headstrip.system.os_errors import explain


@click.command(name="new-plugin")
@click.argument("name")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder to make.  [default: one named NAME, here]",
)
@json_option
@click.pass_context
def command(context: click.Context, name: str, folder: Path | None, as_json: bool) -> None:
    """Write the folder of a plugin of your own.

    NAME is what stands before the colon in the names of its backbones. The plugin is complete: it
    brings one tiny network, can be installed as it is, and keeps headstrip's contract.
    """
    problem = name_problem(name) or _taken(open_registry(context), name)
    if problem:
        raise UsageFailure(f"A new plugin cannot be called {name!r}: {problem}. Choose another.")
    plugin, target = NewPlugin(name), folder or Path(name)
    if not target.absolute().parent.is_dir():
        raise UsageFailure(f"There is no folder {str(target.parent)!r} to make it in.")
    try:
        files = write_plugin(plugin, target)
    except FileExistsError as error:
        raise UsageFailure(
            f"{str(target)!r} is there already, and stays as it is. "
            "Choose another folder with `--to`."
        ) from error
    except OSError as error:
        raise Failure(explain(error, f"{str(target)!r} cannot be made")) from error
    if as_json:
        print_json(
            {"plugin": name, "distribution": plugin.distribution, "package": plugin.package,
             "folder": str(target), "files": [str(file) for file in files]}
        )  # fmt: skip
    else:
        for line in _next_steps(plugin, target):
            print_line(line)


def _taken(registry: Registry, name: str) -> str | None:
    """Say which installed plugin has the name, unless the new one would take its place."""
    for record in registry.records():
        distribution, _, _ = record.origin.partition(" ")
        if record.name == name and _plain(distribution) != _plain(NewPlugin(name).distribution):
            return f"a plugin of that name is installed, of {record.origin}"
    return None


def _plain(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution.lower())


def _next_steps(plugin: NewPlugin, folder: Path) -> list[str]:
    # With no slash in it pip would take the path for the name of a distribution.
    path = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")
    return [
        f"{plugin.distribution} is in {path}. It brings {plugin.name}:tiny, and has no licence "
        "yet: choose one in its pyproject.toml.",
        f"  pip install -e {path}",
        f"  headstrip verify '{plugin.name}:*'",
    ]
