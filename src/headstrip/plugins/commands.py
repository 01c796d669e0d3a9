"""Commands that other distributions add to ``headstrip``, loaded only when one of them runs."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headstrip.errors import PluginError
from headstrip.plugins import COMMAND_GROUP
from headstrip.plugins.entry_points import Declared, declared
from headstrip.plugins.records import PluginRecord, remedy_for

if TYPE_CHECKING:
    import click


@dataclass(frozen=True, slots=True)
class PluginCommand:
    """One command of an installed distribution.

    Attributes:
        name: The word after ``headstrip`` in a shell.
        declared: Where its code is.
        record: Its record, whose ``error`` says why the command cannot be used, or is None.
    """

    name: str
    declared: Declared
    record: PluginRecord

    def load(self) -> click.Command:
        """Import the command.

        Raises:
            PluginError: The command is disabled, its name is taken, or its entry point does not
                name a click command.
        """
        reason, cause = self.record.error, None
        if reason is None:
            try:
                return self._import()
            except PluginError as error:
                reason, cause = str(error), error.__cause__
        raise PluginError(
            f"The command {self.name!r} ({self.record.origin}) cannot be used: "
            f"{reason.rstrip('.')}. {remedy_for(reason)}; `headstrip plugins` lists all plugins."
        ) from cause

    def tested(self) -> PluginRecord:
        """Import the command, and return its record with the result."""
        started = time.perf_counter()
        try:
            self._import()
        except PluginError as error:
            record = replace(self.record, status="failed", error=str(error))
        else:
            record = replace(self.record, status="loaded")
        return replace(record, seconds=time.perf_counter() - started)

    def _import(self) -> click.Command:
        """Import the command. The message of an error is only the reason."""
        import click

        command = self.declared.load()
        if not isinstance(command, click.Command):
            kind = type(command).__name__
            where = self.declared.point.value
            raise PluginError(f"{where} has the type {kind} and is not a click command")
        return command


def find_commands(disabled: Collection[str], reserved: Collection[str]) -> list[PluginCommand]:
    """List the commands of other distributions, sorted by name, without importing them.

    Args:
        disabled: Names of commands that the user disabled; ``*`` means all.
        reserved: Names of headstrip's own commands.
    """
    commands = []
    for one in declared(COMMAND_GROUP, disabled, reserved):
        record = PluginRecord(
            name=f"headstrip {one.name}",
            origin=one.origin,
            module=one.module,
            api=None,
            status="blocked" if one.problem else "found",
            rows=0,
            seconds=None,
            error=one.problem,
        )
        commands.append(PluginCommand(one.name, one, record))
    return commands
