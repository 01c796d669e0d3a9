"""The options of commands that read a table of labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

keep_nan_strings_option: Callable[[Any], Any] = click.option(
    "--keep-nan-strings",
    is_flag=True,
    help="Treat text such as NaN, NA or None as a label, instead of as missing.",
)


def path_column_option(table: str) -> Callable[[Any], Any]:
    """Return the option that names the column of paths in the argument ``table``."""
    return click.option(
        "--path-column",
        metavar="NAME",
        help=f"Read the paths from this column of {table}.  [default: path, image, file, filename "
        "or file_name]",
    )
