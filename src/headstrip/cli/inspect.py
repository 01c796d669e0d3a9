"""``headstrip inspect``: print what a weights file holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line

if TYPE_CHECKING:
    from headstrip.factory.inspecting import InspectedCheckpoint, InspectedStateDict

_SHOWN = 8
_CHOOSE = "write the name that the file was saved from; the shapes do not tell these apart"
_MEGABYTE = 1_000_000
_EXAMPLES = """\b
Example:
  headstrip inspect run.ckpt
"""


@click.command(name="inspect", epilog=_EXAMPLES)
@click.argument("file")
@json_option
@click.pass_context
def command(context: click.Context, file: str, as_json: bool) -> None:
    """Print what a weights file holds, and which backbones it fits.

    FILE is a file of torch.save, a .safetensors file, or the index of several. headstrip reads it
    without executing anything in it. For each state dict the command prints its key and prefix, the
    number, size and dtypes of its tensors, the classes of its head, the architectures of the
    catalog that fit exactly, and the call that builds an encoder from it.
    """
    from headstrip.factory.inspecting import inspect_checkpoint

    open_registry(context)
    with plugins_on_stderr():
        found = inspect_checkpoint(file)
    if as_json:
        print_json(_as_json(found))
        return
    print_line(f"{found.path}", bold=True)
    print_line(f"  sha256  {found.sha256}")
    for one in found.state_dicts:
        print_line("")
        _print(one)


def _print(one: InspectedStateDict) -> None:
    print_line(f"state dict {one.key!r}" if one.key else "state dict: the whole file", bold=True)
    names = list(one.architectures)
    fits = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" * bool(names[_SHOWN:]))
    facts = {
        "prefix": one.prefix or "none",
        "tensors": f"{one.tensors} ({one.bytes / _MEGABYTE:.1f} MB, {', '.join(one.dtypes)})",
        "classes": "no head, or unknown" if one.classes is None else str(one.classes),
        "fits": fits or _why_not(one.library),
        **({"build": one.line} if one.line else {}),
        **({"choose": _CHOOSE} if len(names) > 1 else {}),
    }
    width = max(map(len, facts))
    for key, value in facts.items():
        print_line(f"  {key.ljust(width)}  {value}")


def _why_not(library: str | None) -> str:
    if library is None:
        return "no architecture of the catalog"
    return f"no architecture: its names are those of {library}, which headstrip does not convert"


def _as_json(found: InspectedCheckpoint) -> dict[str, Any]:
    return {**asdict(found), "path": str(found.path)}
