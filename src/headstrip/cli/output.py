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

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""The option that every command has."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    is_number: bool = False


def print_json(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Print what others will parse; no NaN, which is no JSON, is let through.

    A list has one line an item: it is far faster written than indented.
    """
    if isinstance(value, Mapping):
        click.echo(json.dumps(value, indent=2, allow_nan=False))
        return
    lines = [json.dumps(item, allow_nan=False) for item in value]
    click.echo("[\n" + ",\n".join(lines) + "\n]")


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with a head on a terminal, in a pipe a line a row and nothing else."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty():
        _print_rich(columns, rows)
        return
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
    Console(markup=False, highlight=False).print(table)


def printable(text: str) -> str:
    """Escape what would move a terminal's cursor, or what no encoding can write."""
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        # A byte of a file's name that is not UTF-8.
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def warn(text: str) -> None:
    """Print a sentence on stderr."""
    click.echo(printable(text), err=True)


@contextmanager
def plugins_on_stderr() -> Iterator[None]:
    """Send to stderr what plugins print meanwhile: stdout is the command's."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Print what is warned of meanwhile without the line of code that warns."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: warn(f"Warning: {message}")
        yield


def short_count(count: int) -> str:
    """Write 25557032 as ``25.6M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
