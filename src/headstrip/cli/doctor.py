"""``headstrip doctor``: what is installed, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from headstrip._version import __version__
from headstrip.authoring.plugin_checks import UNREAD, checked_records
from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import PARTLY
from headstrip.cli.group import plugin_commands
from headstrip.cli.output import json_option, print_json, print_line
from headstrip.cli.plugins import timeout_option
from headstrip.errors import HeadstripError, one_line
from headstrip.plugins.loader import PluginRecord
from headstrip.plugins.metadata_folders import damaged_folders

_DISTRIBUTIONS = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow")
_GB = 10**9


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do."""

    found: str
    remedy: str


@click.command(name="doctor")
@timeout_option
@json_option
@click.pass_context
def command(context: click.Context, timeout: float, as_json: bool) -> None:
    """Say what is installed, and what is wrong with it.

    The exit code is 1 when a problem was found; what to do stands beside it.
    """
    damaged = damaged_folders()
    problems = [Problem(folder.found, folder.remedy) for folder in damaged]
    is_readable = not any(folder.stops_python for folder in damaged)
    report: dict[str, Any] = {
        "versions": _versions(),
        # Where Python cannot read what is installed, torch cannot be imported, and that is why.
        "devices": (devices := _devices(problems) if is_readable else {}),
        "cache": _cache(problems) if devices else {},
        "environment": _environment(),
        "plugins": _plugins(context, timeout, problems),
    }
    if as_json:
        found = [{"problem": problem.found, "remedy": problem.remedy} for problem in problems]
        print_json({**report, "problems": found})
    else:
        _print_report(report, problems)
    if problems:
        context.exit(PARTLY)


def _versions() -> dict[str, str | None]:
    found = {name: _version(name) for name in _DISTRIBUTIONS}
    return {"python": platform.python_version(), "headstrip": __version__, **found}


def _devices(problems: list[Problem]) -> dict[str, Any]:
    """Import what computes, and say what it computes on."""
    for module in ("torch", "torchvision"):
        try:
            import_module(module)
        except Exception as error:
            problems.append(
                Problem(
                    f"{module} cannot be imported: {one_line(error)}",
                    "Install torch and torchvision anew, in versions that belong together: "
                    "`pip install --force-reinstall torch torchvision`.",
                )
            )
            return {}
    import torch

    return {
        "cpu threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }


def _cache(problems: list[Problem]) -> dict[str, Any]:
    """Look at the folder that weights are downloaded to."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    # What is not there yet is made in the nearest folder that is.
    there = next(path for path in (folder, *folder.parents) if path.exists())
    is_writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    free = shutil.disk_usage(there).free
    remedy = "Set TORCH_HOME to a folder of yours on a disk with room."
    if not is_writable:
        problems.append(Problem(f"weights cannot be downloaded: {there} takes no files", remedy))
    elif free < _GB:
        found = f"{free / _GB:.1f} GB are free for downloaded weights in {there}"
        problems.append(Problem(found, remedy))
    return {"folder": str(folder), "writable": is_writable, "free GB": round(free / _GB, 1)}


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("HEADSTRIP_") or name == "TORCH_HOME"
    }


def _plugins(context: click.Context, timeout: float, problems: list[Problem]) -> dict[str, str]:
    """Say how each plugin is, the built-in ones aside."""
    try:
        records = [
            record
            for record in checked_records(
                open_registry(context), timeout, plugin_commands(context).values()
            )
            if record.status != "damaged"
        ]
    except HeadstripError as error:
        problems.append(Problem(str(error), "Install what it names anew, or uninstall it."))
        return {}
    problems += [
        Problem(
            f"the plugin {record.name!r} ({record.origin}), {record.status}: {record.error}",
            "Install another version of it, or uninstall it.",
        )
        for record in records
        if record.error and not _is_disabled(record) and not _is_unread(record)
    ]
    return {
        f"{record.name} ({record.origin})": record.status
        for record in records
        if record.origin != "built-in"
    }


def _is_unread(record: PluginRecord) -> bool:
    """Whether a plugin was not loaded because of a damaged folder, which is a problem already."""
    return (record.error or "").startswith(UNREAD)


def _is_disabled(record: PluginRecord) -> bool:
    return record.status == "blocked" and (record.error or "").startswith("disabled by")


def _print_report(report: dict[str, Any], problems: list[Problem]) -> None:
    for title, facts in report.items():
        print_line(title, bold=True)
        width = max(map(len, facts), default=0)
        for name, value in facts.items():
            print_line(f"  {name.ljust(width)}  {_in_words(value)}")
        if not facts:
            print_line("  none")
    print_line("problems", bold=True)
    for problem in problems:
        print_line(f"  {problem.found.rstrip('.')}. {problem.remedy}")
    if not problems:
        print_line("  none")


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not installed" if value is None else str(value)


def _version(name: str) -> str | None:
    """Return the version of an installed distribution, None when it is not installed."""
    try:
        return version(name)
    except (PackageNotFoundError, KeyError):
        # Some Pythons raise the latter where a damaged folder does not state a version.
        return None
