"""Options, progress and warnings that all commands that embed images share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.failures import UsageFailure
from headstrip.cli.output import warn
from headstrip.cli.pixels import pixel_options, warn_of_pages
from headstrip.errors import HeadstripError
from headstrip.printable import printable

if TYPE_CHECKING:
    from headstrip.embed.report import EmbedReport
    from headstrip.embed.sources import Source

SETTINGS = ("batch_size", "threads", "engine", "precision", "decode_mode")
"""The options that the bits of an embedding depend on."""

SECTIONS = {
    "Reading images": (
        "column",
        "image_column",
        "pages",
        "background",
        "value_range",
        "allow_schemes",
        "allow_private",
    ),
    "Settings that the embeddings depend on": SETTINGS,
    "Running": ("device", "inference_threads", "workers", "timeout", "max_errors"),
    "Resuming": ("retry_failed", "checksum", "exact"),
}

_SHOWN_FAILURES = 5


# Older releases of click accept no type argument.
class _EngineName(click.ParamType):  # type: ignore[type-arg]
    """The name of an engine, or auto. headstrip finds the names only when a command needs them."""

    name = "engine"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Show all names in the help."""
        from headstrip.embed.engines.registry import engine_names

        return printable(f"[{'|'.join(('auto', *engine_names()))}]")

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a name that no engine has."""
        from headstrip.embed.engines.registry import check_engine

        try:
            check_engine(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


_OPTIONS = (
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Send N images through the network at once.  [default: 16 on a CPU, 128 on other "
        "devices]",
    ),
    click.option(
        "--engine",
        type=_EngineName(),
        help="Choose the library that runs the network. auto measures the installed ones at "
        "the start of the run and takes the fastest within the tolerance.  [default: torch]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "auto"]),
        help="Choose the number format that the network computes with. auto measures, as for "
        "--engine.  [default: fp32]",
    ),
    click.option(
        "--decode-mode",
        type=click.Choice(["exact", "fast"]),
        help="Choose the decode mode. exact decodes images as the preprocessing declares; "
        "fast decodes JPEGs at a fraction of their size.  [default: exact]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute each batch with N CPU threads.  "
        "[default: 1 on a CPU, one per core on other devices]",
    ),
    pixel_options,
    click.option(
        "--device",
        metavar="DEVICE",
        default="auto",
        show_default=True,
        help="Run the network on this device, such as cpu or cuda:1. auto uses a GPU when "
        "there is one.",
    ),
    click.option(
        "--pages",
        type=click.Choice(["first", "all"]),
        default="first",
        show_default=True,
        help="Embed the first page or frame of a file, or all of them. With all, each page is "
        "a row, such as a.tif#2.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        metavar="N",
        help="Decode images in N processes. 0 decodes in this process.  [default: one per core]",
    ),
    click.option(
        "--inference-threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Run N batches through the network at the same time, each in its own inference "
        "thread.  [default: the number of cores divided by --threads on a CPU, 1 on other "
        "devices]",
    ),
    click.option(
        "--retry-failed",
        is_flag=True,
        help="Try the images again that have an error in OUT.",
    ),
    click.option(
        "--checksum",
        is_flag=True,
        help="Compare the bytes of each image to find out whether it changed. Without this "
        "option, headstrip compares its size and modification time.",
    ),
    click.option(
        "--exact",
        is_flag=True,
        help="Stop when rows in OUT were computed with other library versions or on another "
        "machine. Without this option, headstrip prints the difference and continues.",
    ),
    click.option(
        "--max-errors",
        type=click.IntRange(min=0),
        metavar="N",
        help="Stop when more than N images cannot be embedded.  [default: no limit]",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        default=60.0,
        show_default=True,
        help="Give up on an image that takes longer than this to decode.",
    ),
    click.option(
        "--column",
        metavar="NAME",
        default="path",
        show_default=True,
        help="Read the paths from this column of a list, such as image_path.",
    ),
    click.option(
        "--image-column",
        metavar="NAME",
        help="Read the images from this column of Parquet files, such as image.  "
        "[default: the only column with images]",
    ),
    click.option(
        "--allow-scheme",
        "allow_schemes",
        metavar="NAME",
        multiple=True,
        help="Also read URLs with this scheme, such as ftp, in SOURCE and in lists. Repeat "
        "the option to allow several.",
    ),
    click.option(
        "--allow-private",
        is_flag=True,
        help="Read http URLs in lists, and follow redirects, that lead to addresses that are "
        "not public, such as 127.0.0.1.",
    ),
)


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a run that embeds images to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def find_source(source: str, **options: Any) -> Source:
    """Return the images of a source, which has at least one. This imports no slow library.

    Raises:
        UsageFailure: The source does not exist, or has no image.
    """
    from headstrip.embed.sources import LeftOut, items_of, sentence, source_of

    try:
        images, left_out = source_of(source, **options), LeftOut()
        if next(items_of(images, left_out.note), None) is None:
            reason = sentence(left_out.counts()) or "Check the path."
            raise HeadstripError(f"There is no image in {source!r}. {reason}")
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error
    return images


def warn_about(report: EmbedReport) -> None:
    """Warn of images that were left out, used in part, or bad."""
    from headstrip.embed.sources import sentence

    if skipped := sentence(report.left_out):
        warn(skipped)
    warn_of_pages(
        report.stages.multipage_examples,
        report.stages.multipage_count,
        "Pass --pages all to embed every page.",
    )
    if not report.bad:
        return
    warn(f"{report.bad} of {report.rows} images could not be embedded:")
    for path, reason in islice(report.failed.items(), _SHOWN_FAILURES):
        warn(f"  {path}: {reason}")
    more = report.bad - _SHOWN_FAILURES
    if more > 0:
        warn(f"  and {more} more; the column `error` of the file has all of them.")


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar with the rate on a terminal, and nothing in a pipe."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]}")
    columns = (BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("images", total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            text = f"{speed:.1f} images/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=text)

        yield show
