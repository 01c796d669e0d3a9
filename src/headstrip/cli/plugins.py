"""``headstrip plugins``: who brings backbones, and what is wrong with whom."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.output import Column, json_option, print_json, print_table
from headstrip.plugins import PluginRecord

_COLUMNS = (
    Column("name"), Column("origin"), Column("status"), Column("rows", is_number=True),
    Column("seconds", is_number=True), Column("reason"),
)  # fmt: skip


@click.command(name="plugins")
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List plugins, and what is wrong with them.

    Third parties' plugins are imported to be checked; the built-in ones wait until they are used.
    """
    records = checked_records(context)
    if as_json:
        print_json([asdict(record) for record in records])
    else:
        print_table(_COLUMNS, [_cells(record) for record in records])


def checked_records(context: click.Context) -> list[PluginRecord]:
    """Return all records, with the third parties' plugins imported.

    What a plugin prints meanwhile is not shown: a broken one would show its own traceback.

    Raises:
        PluginError: A plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
    """
    # A real file, open until the command ends (click closes it, which ruff cannot see): a plugin
    # may keep it as the stream of its log.
    nowhere = context.with_resource(open(os.devnull, "w"))  # noqa: SIM115
    registry = open_registry(context)
    with redirect_stdout(nowhere), redirect_stderr(nowhere):
        return registry.records(load=True)


def _cells(record: PluginRecord) -> list[str]:
    seconds = "-" if record.seconds is None else f"{record.seconds:.2f}"
    return [
        record.name, record.origin, record.status, str(record.rows), seconds, record.error or "-"
    ]  # fmt: skip
