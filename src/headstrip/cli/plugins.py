"""``headstrip plugins``: list plugins, and check that they work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from headstrip.authoring.plugin_checks import TIMEOUT, checked_records
from headstrip.cli.backbone import open_registry
from headstrip.cli.group import plugin_commands
from headstrip.cli.output import Column, json_option, print_json, print_table
from headstrip.plugins.loader import PluginRecord

_COLUMNS = (
    Column("name"),
    Column("origin"),
    Column("status"),
    Column("rows", is_number=True),
    Column("seconds", is_number=True),
    Column("reason"),
)


class _Seconds(click.FloatRange):
    """A time limit of up to a day. click's own range check would accept NaN."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds. Pass one such as 30.", param, ctx)
        return seconds


timeout_option: Callable[[Any], Any] = click.option(
    "--timeout",
    type=_Seconds(min=0, max=86400, min_open=True),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Wait at most this long for each plugin, such as 30.",
)
"""Commands that load plugins have this option."""


@click.command(name="plugins")
@timeout_option
@json_option
@click.pass_context
def command(context: click.Context, timeout: float, as_json: bool) -> None:
    """List plugins, and check that they work.

    headstrip loads each third-party plugin in a separate process and builds its smallest backbone.
    It lists built-in plugins without loading them. A command that a distribution adds gets a row
    too, and so does a damaged folder of an installed distribution, which can hide a plugin.
    """
    records = checked_records(open_registry(context), timeout, plugin_commands(context).values())
    if as_json:
        print_json([asdict(record) for record in records])
    else:
        print_table(_COLUMNS, [_cells(record) for record in records], always_head=True)


def _cells(record: PluginRecord) -> list[str]:
    seconds = "-" if record.seconds is None else f"{record.seconds:.2f}"
    return [
        record.name,
        record.origin,
        record.status,
        str(record.rows),
        seconds,
        record.error or "-",
    ]
