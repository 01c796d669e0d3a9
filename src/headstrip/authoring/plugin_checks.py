"""Load and try each third-party plugin in a separate process, with a time limit.

A plugin that hangs, exits or crashes affects only its own record. Plugins are loaded in parallel.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from headstrip.errors import one_line
from headstrip.plugins.commands import PluginCommand, find_commands
from headstrip.plugins.loader import PluginRecord
from headstrip.plugins.metadata_folders import DamagedFolder, damaged_folders
from headstrip.registry.registry import Registry

TIMEOUT = 10.0
"""Time limit in seconds for loading and trying one plugin."""

UNREAD = "not loaded, because Python cannot read what is installed:"
"""Start of the reason if a damaged folder of another distribution keeps a plugin from loading."""

# Building on the meta device also imports `torch._dynamo`.
_IMPORTED_ONCE = ["headstrip.authoring.smoke_test", "torchvision", "torch._dynamo"]
_STRICT = "HEADSTRIP_STRICT_PLUGINS"


def checked_records(
    registry: Registry, timeout: float = TIMEOUT, commands: Iterable[PluginCommand] = ()
) -> list[PluginRecord]:
    """Return a record for each plugin, and for each damaged folder that may hide one.

    headstrip imports third-party plugins in other processes, and builds and strips the smallest
    backbone of each there. It imports nothing into this process.

    Args:
        registry: The registry that lists the plugins.
        timeout: Time limit in seconds for one plugin.
        commands: Commands of other distributions, which are imported in the same way.

    Raises:
        PluginError: A plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
    """
    records = [*registry.records(), *(command.record for command in commands)]
    third_party = [one for one in records if _needs_check(one)]
    damaged = damaged_folders()
    if (folder := next((one for one in damaged if one.stops_python), None)) is not None:
        # A process that imports torch would fail at its start.
        records = [
            replace(one, error=f"{UNREAD} {folder.found}") if one in third_party else one
            for one in records
        ]
        third_party = []
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        checked = dict(
            zip(
                [one.name for one in third_party],
                pool.map(lambda one: _checked(one, registry.disabled, timeout), third_party),
                strict=True,
            )
        )
    found = [checked.get(one.name, one) for one in records] + _damaged_records(damaged)
    for record in found:
        registry.refuse_if_strict(record)
    return found


def _needs_check(record: PluginRecord) -> bool:
    is_third_party = record.origin not in {"built-in", "registered"}
    return is_third_party and record.status in {"found", "loaded"}


def _damaged_records(folders: list[DamagedFolder]) -> list[PluginRecord]:
    return [
        PluginRecord(
            one.distribution,
            one.distribution,
            "",
            None,
            "damaged",
            0,
            None,
            f"{one.found}. {one.remedy}",
        )
        for one in folders
    ]


def _checked(record: PluginRecord, disabled: frozenset[str], timeout: float) -> PluginRecord:
    """Load one plugin in a process, and return its record."""
    methods = multiprocessing.get_all_start_methods()
    # A fork server imports torch once; without it, each process would need seconds for the import.
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(_IMPORTED_ONCE)
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_check, args=(record.name, dict(os.environ), disabled, there), daemon=True
    )
    try:
        process.start()
    except (OSError, EOFError) as error:
        return replace(record, status="failed", error=f"no process could be started ({error})")
    there.close()
    try:
        return _answer(record, here, process, timeout)
    finally:
        process.kill()
        process.join()
        here.close()


def _answer(
    record: PluginRecord, here: Connection, process: BaseProcess, timeout: float
) -> PluginRecord:
    """Wait for the record that a process sends."""
    if not here.poll(timeout):
        return replace(
            record,
            error=f"loading it takes longer than {timeout:g} s; `--timeout SECONDS` waits longer",
        )
    try:
        return PluginRecord(**json.loads(here.recv_bytes()))
    except EOFError:
        process.join(timeout)
        return replace(record, status="failed", error=f"it ends its process ({_end_of(process)})")


def _end_of(process: BaseProcess) -> str:
    code = process.exitcode
    if code is None:
        return "it is still running"
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def _tested(registry: Registry, name: str) -> PluginRecord:
    for command in find_commands(registry.disabled, ()):
        if command.record.name == name:
            return command.tested()
    # Imported here, because the process that starts the checks must not import torch.
    from headstrip.authoring.smoke_test import smoke_test

    return smoke_test(registry, name)


def _check(
    name: str, environment: Mapping[str, str], disabled: frozenset[str], answer: Connection
) -> None:
    """Load a plugin in this process, run its smoke test, and send its record."""
    # Discard the output of the plugin, which would corrupt the command's table or JSON.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.environ.clear()
    os.environ.update(environment)
    # The caller needs the record, and raises the error itself.
    os.environ.pop(_STRICT, None)
    registry = Registry(disabled)
    try:
        record = _tested(registry, name)
    except Exception as error:
        # Errors of the plugin are in its record. This one means that torch cannot be imported.
        reason = f"it cannot be tried: {type(error).__name__}: {one_line(error)}"
        found = next(one for one in registry.records() if one.name == name)
        record = replace(found, status="failed", error=reason)
    answer.send_bytes(json.dumps(asdict(record)).encode())
    answer.close()
    # Do not wait for threads that the plugin started.
    os._exit(0)
