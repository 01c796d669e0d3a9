"""Options, checks and reading of pictures for all commands that write an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.failures import UsageFailure
from headstrip.cli.output import warn
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from PIL import Image

    Pictures = Mapping[str, Image.Image | str]
    ReadPictures = Callable[[Iterable[str]], Pictures]

_NAMED = 10
_TAKEN = (".csv", ".npy", ".parquet", ".safetensors", ".tar", ".tsv")


def root_option(option: str) -> Callable[[Any], Any]:
    """Return the option that says where the pictures of the page ``option`` are."""
    return click.option(
        "--root",
        metavar="SOURCE",
        default=".",
        help=f"Read the pictures for {option} from this source: the SOURCE that was given to "
        "`headstrip embed`.  [default: the current folder]",
    )


def check_page(option: str, page: Path | None, inputs: Sequence[Path]) -> None:
    """Refuse a page that cannot be written, would overwrite an input, or has a wrong suffix.

    This imports no slow library.

    Args:
        option: The option that names the page, for messages.
        page: The page; None if the user wants no page.
        inputs: The files that the command reads.

    Raises:
        UsageFailure: headstrip refuses the page.
    """
    from headstrip.embed.files import check_out
    from headstrip.embed.sources import IMAGE_SUFFIXES

    if page is None:
        return
    try:
        check_out(page)
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error
    for file in inputs:
        if page.exists() and file.exists() and page.samefile(file):
            raise UsageFailure(
                f"{option} {str(page)!r} would overwrite an input file. Pass another file name."
            )
    if page.suffix.lower() in {*IMAGE_SUFFIXES, *_TAKEN}:
        raise UsageFailure(
            f"{option} {str(page)!r} is not the name of a page. Pass a name that ends in .html."
        )


def pictures_in(root: str) -> ReadPictures:
    """Return a function that reads pictures by their paths.

    Raises:
        HeadstripError: The source does not exist.
    """
    from headstrip.embed.sources import source_of
    from headstrip.html.thumbnails import pictures_of

    return partial(pictures_of, source_of(root), root)


def warn_of_missing(page: Path, pictures: Pictures) -> int:
    """Warn of pictures that the page lacks, and return their number."""
    missing = {path: reason for path, reason in pictures.items() if isinstance(reason, str)}
    for path, reason in list(missing.items())[:_NAMED]:
        warn(f"No picture of {path}: {reason}")
    if missing:
        warn(
            f"{page} lacks {len(missing)} pictures. Pass the source that was embedded with --root."
        )
    return len(missing)
