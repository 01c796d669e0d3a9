"""``headstrip doctor``: print what is installed, and check it for problems."""

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
from headstrip.plugins.records import remedy_for

_DISTRIBUTIONS = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow")
_GB = 10**9


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, and what to do about it."""

    found: str
    remedy: str


@click.command(name="doctor")
@timeout_option
@json_option
@click.pass_context
def command(context: click.Context, timeout: float, as_json: bool) -> None:
    """Print what is installed, and check it for problems.

    For each problem headstrip prints what to do about it. The exit code is 1 if it finds a problem.
    """
    damaged = damaged_folders()
    problems = [Problem(folder.found, folder.remedy) for folder in damaged]
    is_readable = not any(folder.stops_python for folder in damaged)
    report: dict[str, Any] = {
        "versions": _versions(),
        # If Python cannot read the installed metadata, the import of torch fails too.
        "devices": (devices := _devices(problems) if is_readable else {}),
        "cache": _cache(problems) if devices else {},
        "environment": _environment(),
        "plugins": _plugins(context, timeout, problems),
        "engines": _engines(problems) if devices else {},
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
    """Import torch and torchvision, and return the devices that torch can use."""
    for module in ("torch", "torchvision"):
        try:
            import_module(module)
        except Exception as error:
            problems.append(
                Problem(
                    f"{module} cannot be imported: {one_line(error)}",
                    "Reinstall matching versions of torch and torchvision: "
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
    """Check the folder that weights are downloaded to."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    # headstrip creates a missing folder, so check its nearest parent that exists.
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    is_writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    free = shutil.disk_usage(existing).free
    remedy = "Set TORCH_HOME to a folder that you can write to, on a disk with free space."
    if not is_writable:
        problems.append(
            Problem(f"weights cannot be downloaded: {existing} is not writable", remedy)
        )
    elif free < _GB:
        found = f"only {free / _GB:.1f} GB are free for downloaded weights in {existing}"
        problems.append(Problem(found, remedy))
    return {"folder": str(folder), "writable": is_writable, "free GB": round(free / _GB, 1)}


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("HEADSTRIP_") or name == "TORCH_HOME"
    }


def _plugins(context: click.Context, timeout: float, problems: list[Problem]) -> dict[str, str]:
    """Return the status of each plugin that is not built in."""
    try:
        records = [
            record
            for record in checked_records(
                open_registry(context), timeout, plugin_commands(context).values()
            )
            if record.status != "damaged"
        ]
    except HeadstripError as error:
        problems.append(Problem(str(error), "Reinstall or uninstall the plugin that it names."))
        return {}
    problems += [
        Problem(
            f"the plugin {record.name!r} ({record.origin}), {record.status}: {record.error}",
            f"{remedy_for(record.error)}."
            if record.status != "found"
            else "Pass a longer --timeout, such as 300.",
        )
        for record in records
        if record.error and not _is_disabled(record) and not _is_unread(record)
    ]
    return {
        f"{record.name} ({record.origin})": record.status
        for record in records
        if record.origin != "built-in"
    }


def _engines(problems: list[Problem]) -> dict[str, Any]:
    """Return the versions of the libraries of each engine."""
    from headstrip.embed.engines.registry import (
        blocked_engines,
        engine_names,
        engine_versions,
        load_engine,
    )

    found: dict[str, Any] = {}
    for name in engine_names():
        try:
            load_engine(name)
        except HeadstripError as error:
            problems.append(_engine_problem(error))
            found[name] = "broken"
            continue
        versions = engine_versions(name)
        if name in ("torch", "compile"):
            versions = {"torch": version("torch")}
        found[name] = ", ".join(map(" ".join, versions.items())) or None
    for name, blocked in blocked_engines().items():
        problems.append(_engine_problem(blocked))
        found[name] = "blocked"
    return found


def _engine_problem(error: HeadstripError) -> Problem:
    found, _, remedy = str(error).rpartition(". ")
    return Problem(found, remedy)


def _is_unread(record: PluginRecord) -> bool:
    """Return whether a plugin was not loaded because of a damaged folder, which is reported too."""
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
        # Some Python versions raise KeyError if a damaged folder does not state a version.
        return None
