"""``headstrip embed``: a folder of images into a Parquet file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import backbone_option, build_image_encoder
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.output import json_option, print_json, printable, warn
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.embed.folder import EmbedReport
    from headstrip.encoder import Encoder

_NAMED = 5


@click.command(name="embed")
@click.argument("folder", type=click.Path(path_type=Path))
@backbone_option
@click.option(
    "-o", "--out", required=True, metavar="OUT", type=click.Path(path_type=Path),
    help="Parquet file to write.",
)  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=16, show_default=True,
    help="Images that go through the network at once.",
)  # fmt: skip
@json_option
@click.pass_context
def command(
    context: click.Context, folder: Path, name: str, weights: str, out: Path, batch_size: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Embed a folder of images into a Parquet file.

    Every image of FOLDER and of the folders in it is a row: path, embedding, width, height and
    error. A bad image is a row with its reason, and the exit code is 1 then. Links to folders are
    not followed.
    """
    _check_paths(folder, out)
    encoder = build_image_encoder(context, name, weights)

    from headstrip.embed.folder import embed_folder

    with _progress() as progress:
        report = embed_folder(encoder, folder, out, batch_size=batch_size, progress=progress)
    if as_json:
        print_json(_as_json(encoder, report))
    else:
        good = report.rows - len(report.failed)
        click.echo(
            f"{printable(str(report.out))}: {report.rows} rows, {good} of them with an embedding "
            f"of {encoder.output_dim} numbers by {encoder.spec.qualified_name}"
        )
    if report.failed:
        _warn_of(report)
        context.exit(PARTLY)


def _check_paths(folder: Path, out: Path) -> None:
    """Refuse paths that cannot work before torch is imported and weights are fetched."""
    from headstrip.embed.files import check_out, find_images

    try:
        check_out(out)
        find_images(folder)
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on a terminal, and nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _warn_of(report: EmbedReport) -> None:
    warn(f"{len(report.failed)} of {report.rows} images could not be embedded:")
    for path, reason in islice(report.failed.items(), _NAMED):
        warn(f"  {path}: {reason}")
    more = len(report.failed) - _NAMED
    if more > 0:
        warn(f"  and {more} more; the column `error` of the file has all of them.")


def _as_json(encoder: Encoder, report: EmbedReport) -> dict[str, Any]:
    fingerprint = encoder.fingerprint
    return {
        "out": str(report.out), "rows": report.rows, "dim": encoder.output_dim,
        "backbone": fingerprint.name, "weights": fingerprint.weights,
        "weights_sha256": fingerprint.weights_sha256, "identity": fingerprint.identity,
        "failed": [{"path": path, "error": error} for path, error in report.failed.items()],
    }  # fmt: skip
