"""Plugins of third parties, loaded and tried in processes of their own within a time limit.

A plugin that hangs, ends its process or crashes it costs its own record only, and slow ones are
loaded beside each other.
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
"""Seconds that loading and trying one plugin may take."""

UNREAD = "not loaded, because Python cannot read what is installed:"
"""How the reason begins of a plugin that a damaged folder of another distribution keeps back."""

# What building without memory imports besides is `torch._dynamo`.
_IMPORTED_ONCE = ["headstrip.authoring.smoke_test", "torchvision", "torch._dynamo"]
_STRICT = "HEADSTRIP_STRICT_PLUGINS"


def checked_records(
    registry: Registry, timeout: float = TIMEOUT, commands: Iterable[PluginCommand] = ()
) -> list[PluginRecord]:
    """Return what is known of each plugin, and of folders that keep one from being seen.

    The plugins of third parties are imported, and the smallest backbone of each is built and
    stripped, in other processes: nothing is imported into this one.

    Args:
        registry: Where the plugins are.
        timeout: Seconds that one plugin may take.
        commands: Commands of other distributions, which are imported in the same way.

    Raises:
        PluginError: One is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
    """
    records = [*registry.records(), *(command.record for command in commands)]
    others = [one for one in records if _is_to_be_checked(one)]
    damaged = damaged_folders()
    if (folder := next((one for one in damaged if one.stops_python), None)) is not None:
        # No process that imports torch would come up.
        records = [
            replace(one, error=f"{UNREAD} {folder.found}") if one in others else one
            for one in records
        ]
        others = []
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        checked = dict(zip(
            [one.name for one in others],
            pool.map(lambda one: _checked(one, registry.disabled, timeout), others),
            strict=True,
        ))  # fmt: skip
    found = [checked.get(one.name, one) for one in records] + _damaged_records(damaged)
    for record in found:
        registry.refuse_if_strict(record)
    return found


def _is_to_be_checked(record: PluginRecord) -> bool:
    is_others = record.origin not in {"built-in", "registered"}
    return is_others and record.status in {"found", "loaded"}


def _damaged_records(folders: list[DamagedFolder]) -> list[PluginRecord]:
    return [
        PluginRecord(
            one.distribution, one.distribution, "", None, "damaged", 0, None,
            f"{one.found}. {one.remedy}",
        )
        for one in folders
    ]  # fmt: skip


def _checked(record: PluginRecord, disabled: frozenset[str], timeout: float) -> PluginRecord:
    """Load one plugin in a process, and return what is known of it then."""
    methods = multiprocessing.get_all_start_methods()
    # A server that has imported torch once, and forks; each fork would need seconds for that.
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
    """Wait for what a process says of a plugin."""
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
    # It imports torch, which the commands that list plugins do without.
    from headstrip.authoring.smoke_test import smoke_test

    return smoke_test(registry, name)


def _check(
    name: str, environment: Mapping[str, str], disabled: frozenset[str], answer: Connection
) -> None:
    """Load a plugin in this process, try it, and send its record."""
    # What it prints is not the command's, and would spoil a table or JSON.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.environ.clear()
    os.environ.update(environment)
    # The caller has to know the reason, and raises the error.
    os.environ.pop(_STRICT, None)
    registry = Registry(disabled)
    try:
        record = _tested(registry, name)
    except Exception as error:
        # A plugin's own errors are in its record; this is a torch that cannot be imported.
        reason = f"it cannot be tried: {type(error).__name__}: {one_line(error)}"
        found = next(one for one in registry.records() if one.name == name)
        record = replace(found, status="failed", error=reason)
    answer.send_bytes(json.dumps(asdict(record)).encode())
    answer.close()
    # Threads that the plugin started are not waited for.
    os._exit(0)
