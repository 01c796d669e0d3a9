"""``headstrip new-plugin``: create the project of a new plugin."""

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
    help="Create this folder, such as ~/code/mylab.  [default: NAME in the current folder]",
)
@json_option
@click.pass_context
def command(context: click.Context, name: str, folder: Path | None, as_json: bool) -> None:
    """Create the project of a new plugin.

    NAME is the source in the names of its backbones, such as mylab in mylab:tiny. The project is
    complete: it contains one tiny network, you can install it at once, and it passes all checks
    of `headstrip verify`.
    """
    problem = name_problem(name) or _taken(open_registry(context), name)
    if problem:
        raise UsageFailure(
            f"A new plugin cannot be called {name!r}: {problem}. Choose another name."
        )
    plugin, target = NewPlugin(name), folder or Path(name)
    if not target.absolute().parent.is_dir():
        raise UsageFailure(
            f"There is no folder {str(target.parent)!r}. Create it, or pass another folder with "
            "`--to`."
        )
    try:
        files = write_plugin(plugin, target)
    except FileExistsError as error:
        raise UsageFailure(
            f"{str(target)!r} already exists, and headstrip does not change it. "
            "Pass another folder with `--to`."
        ) from error
    except OSError as error:
        raise Failure(explain(error, f"{str(target)!r} cannot be created")) from error
    if as_json:
        print_json(
            {
                "plugin": name,
                "distribution": plugin.distribution,
                "package": plugin.package,
                "folder": str(target),
                "files": [str(file) for file in files],
            }
        )
    else:
        for line in _next_steps(plugin, target):
            print_line(line)


def _taken(registry: Registry, name: str) -> str | None:
    """Return why an installed plugin occupies the name, or None.

    A plugin of the same distribution does not: the new one would replace it.
    """
    for record in registry.records():
        distribution, _, _ = record.origin.partition(" ")
        if record.name == name and _normalized(distribution) != _normalized(
            NewPlugin(name).distribution
        ):
            return f"an installed plugin has that name ({record.origin})"
    return None


def _normalized(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution.lower())


def _next_steps(plugin: NewPlugin, folder: Path) -> list[str]:
    # Without a slash, pip would read the path as the name of a distribution.
    path = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")
    return [
        f"Created {plugin.distribution} in {path}, with the backbone {plugin.name}:tiny. It has no "
        "licence yet: choose one in its pyproject.toml. Then run",
        f"  pip install -e {path}",
        f"  headstrip verify '{plugin.name}:*'",
    ]
