"""Printing for all commands: tables and JSON on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple

import click

from headstrip.errors import one_line
from headstrip.printable import printable as printable
from headstrip.printable import printable_lines

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""Every command has this option."""


class Column(NamedTuple):
    """One column of a table."""

    title: str
    is_number: bool = False


def print_json(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Print a value as JSON.

    A list is printed with one line per item, which is much faster than indenting. Parsing the
    output gives every text back unchanged.

    Raises:
        ValueError: The value contains NaN or an infinity, which JSON does not have.
    """
    if isinstance(value, Mapping):
        text = json.dumps(value, indent=2, allow_nan=False)
    else:
        lines = [json.dumps(item, allow_nan=False) for item in value]
        text = "[\n" + ",\n".join(lines) + "\n]"
    # DEL is the only control character that json.dumps does not escape.
    click.echo(text.replace("\x7f", "\\u007f"))


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, always_head: bool = False
) -> None:
    """Print a table: with a heading on a terminal, and one plain line per row in a pipe.

    Args:
        columns: Titles of the columns, and how they are aligned.
        rows: The cells.
        always_head: Whether to print the heading in a pipe too.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty():
        _print_rich(columns, rows)
        return
    if always_head:
        rows = [[column.title for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    line = "  ".join(
        f"{{:{'>' if column.is_number else '<'}{width}}}"
        for column, width in zip(columns, widths, strict=True)
    )
    click.echo("\n".join(line.format(*row).rstrip() for row in rows))


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    # Importing rich takes 0.1 s, and only terminals need it.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        # Users copy the name from the first column, so it must not wrap.
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=index == 0,
        )
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(table)


def print_line(text: object, *, bold: bool = False) -> None:
    """Print one line on stdout, with control characters escaped."""
    click.secho(printable(str(text)), bold=bold or None)


def print_lines(text: str) -> None:
    """Print several lines on stdout.

    Pass text from outside through ``printable`` first: otherwise a newline in it would start a
    line that headstrip did not write.
    """
    click.echo(printable_lines(text))


def warn(text: str) -> None:
    """Print one line on stderr, with control characters escaped."""
    click.echo(printable(text), err=True)


def warn_lines(text: str) -> None:
    """Print several lines on stderr, such as a traceback."""
    click.echo(printable_lines(text), err=True)


@contextmanager
def plugins_on_stderr() -> Iterator[None]:
    """Send what plugins print to stderr while the body runs: stdout is the command's output."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Print warnings as one line, without the line of code that raised them."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: warn(f"Warning: {one_line(message)}")
        yield


def short_count(count: int) -> str:
    """Write 25557032 as ``25.6M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
