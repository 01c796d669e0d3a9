"""How commands print: tables and JSON on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import click

from headstrip.errors import one_line
from headstrip.printable import printable as printable
from headstrip.printable import printable_lines

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""The option that every command has."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    is_number: bool = False


def print_json(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Print what others will parse; no NaN, which is no JSON, is let through.

    A list has one line an item: it is far faster written than indented. Whoever parses it gets
    every text back unchanged.
    """
    if isinstance(value, Mapping):
        text = json.dumps(value, indent=2, allow_nan=False)
    else:
        lines = [json.dumps(item, allow_nan=False) for item in value]
        text = "[\n" + ",\n".join(lines) + "\n]"
    # The one control character that JSON leaves as it is.
    click.echo(text.replace("\x7f", "\\u007f"))


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, always_head: bool = False
) -> None:
    """Print a table: with a head on a terminal, in a pipe a line a row and nothing else.

    Args:
        columns: Titles of the columns, and how they are aligned.
        rows: The cells.
        always_head: Whether the head is printed in a pipe too.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty():
        _print_rich(columns, rows)
        return
    if always_head:
        rows = [[column.title for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    pads = [str.rjust if column.is_number else str.ljust for column in columns]
    lines = ["  ".join(map(_padded, row, pads, widths)).rstrip() for row in rows]
    click.echo("\n".join(lines))


def _padded(cell: str, pad: Callable[[str, int], str], width: int) -> str:
    return pad(cell, width)


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    # 0.1 s to import, and for terminals alone.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        # What is copied from a narrow terminal is the name; it stays in one piece.
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=place == 0,
        )
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(table)


def print_line(text: object, *, bold: bool = False) -> None:
    """Print one line on stdout, with what a terminal would act on escaped."""
    click.secho(printable(str(text)), bold=bold or None)


def print_lines(text: str) -> None:
    """Print some lines on stdout.

    A text from outside that is in one of them has to be ``printable`` before: a newline in it
    would begin a line that headstrip did not write.
    """
    click.echo(printable_lines(text))


def warn(text: str) -> None:
    """Print a sentence on stderr, with what a terminal would act on escaped."""
    click.echo(printable(text), err=True)


def warn_lines(text: str) -> None:
    """Print some lines on stderr, such as a traceback."""
    click.echo(printable_lines(text), err=True)


@contextmanager
def plugins_on_stderr() -> Iterator[None]:
    """Send to stderr what plugins print meanwhile: stdout is the command's."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Print what is warned of meanwhile without the line of code that warns."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: warn(f"Warning: {one_line(message)}")
        yield


def short_count(count: int) -> str:
    """Write 25557032 as ``25.6M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
