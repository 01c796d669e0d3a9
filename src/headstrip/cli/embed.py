"""``headstrip embed``: embed many images into one file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import INPUT_OPTIONS, backbone_option, build_image_encoder
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.help_sections import SectionedCommand
from headstrip.cli.output import json_option, print_json, print_line, print_lines, warn
from headstrip.cli.pixels import pixel_options, warn_of_pages, with_pixels
from headstrip.errors import HeadstripError, UnknownBackboneError
from headstrip.printable import printable

if TYPE_CHECKING:
    from headstrip.embed.report import EmbedReport
    from headstrip.embed.settings import EmbedOptions, EmbedSettings
    from headstrip.embed.sources import Source
    from headstrip.encoder.encoder import Encoder

_SHOWN_FAILURES = 5
_SETTINGS = ("batch_size", "threads", "engine", "precision", "route", "dtype")

_SECTIONS = {
    "Encoder and output": (
        "name",
        "weights",
        "weights_key",
        *INPUT_OPTIONS,
        "allow_versions",
        "allow_http",
        "out",
        "overwrite",
    ),
    "Reading images": (
        "column",
        "image_column",
        "pages",
        "background",
        "value_range",
        "allow_schemes",
        "allow_private",
    ),
    "Settings that the embeddings depend on": _SETTINGS,
    "Running": ("device", "lanes", "workers", "timeout", "max_errors", "on", "address"),
    "Resuming": ("retry_failed", "checksum", "exact"),
    "Measuring first": ("look",),
}


# Older releases of click accept no type argument.
class _EngineName(click.ParamType):  # type: ignore[type-arg]
    """The name of an engine, or auto. Names are looked up only when a command needs them."""

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


_EXAMPLES = """\b
Examples:
  headstrip embed photos -b resnet50 -o photos.parquet
  headstrip embed 'photos/**/*.jpg' -b vit_b_16 -o photos.npy --dtype float16
  headstrip embed images.csv --column file -b resnet50 -o images.parquet
  headstrip embed scans -b resnet50 --in-chans 1 -o scans.parquet
  headstrip embed photos -b resnet50 --calibrate
"""


@click.command(name="embed", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("source")
@backbone_option
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Write the embeddings to this file: photos.parquet, or photos.npy with the other columns "
    "in photos.rows.parquet.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send N images through the network at once.  [default: 16 on a CPU, 128 on other devices]",
)
@click.option(
    "--engine",
    type=_EngineName(),
    help="Choose the library that runs the network. auto measures the installed ones at "
    "the start of the run and takes the fastest within the tolerance.  [default: torch]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "auto"]),
    help="Choose the number format that the network computes with. auto measures, as for "
    "--engine.  [default: fp32]",
)
@click.option(
    "--route",
    type=click.Choice(["exact", "fast"]),
    help="Choose the decode mode. exact decodes images as the preprocessing declares; "
    "fast decodes JPEGs at a fraction of their size.  [default: exact]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help="Store embeddings in this format.  [default: float32]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compute each batch with N CPU threads.  "
    "[default: 1 on a CPU, one per core on other devices]",
)
@pixel_options
@click.option(
    "--device",
    metavar="DEVICE",
    default="auto",
    show_default=True,
    help="Run the network on this device, such as cpu or cuda:1. auto uses a GPU when "
    "there is one.",
)
@click.option(
    "--pages",
    type=click.Choice(["first", "all"]),
    default="first",
    show_default=True,
    help="Embed the first page or frame of a file, or all of them. With all, each page is "
    "a row, such as a.tif#2.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Decode images in N processes. 0 decodes in this process.  [default: one per core]",
)
@click.option(
    "--lanes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run N batches through the network at the same time, each in its own inference "
    "thread.  [default: the number of cores divided by --threads on a CPU, 1 on other "
    "devices]",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Overwrite OUT if it exists, and compute every row again.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Try the images again that have an error in OUT.",
)
@click.option(
    "--checksum",
    is_flag=True,
    help="Compare the bytes of each image to find out whether it changed. Without this "
    "option, headstrip compares its size and modification time.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Stop when rows in OUT were computed with other library versions or on another "
    "machine. Without this option, headstrip prints the difference and continues.",
)
@click.option(
    "--max-errors",
    type=click.IntRange(min=0),
    metavar="N",
    help="Stop when more than N images cannot be embedded.  [default: no limit]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="Give up on an image that takes longer than this to decode.",
)
@click.option(
    "--column",
    metavar="NAME",
    default="path",
    show_default=True,
    help="Read the paths from this column of a list, such as image_path.",
)
@click.option(
    "--image-column",
    metavar="NAME",
    help="Read the images from this column of Parquet files, such as image.  "
    "[default: the only column with images]",
)
@click.option(
    "--allow-scheme",
    "allow_schemes",
    metavar="NAME",
    multiple=True,
    help="Also read URLs with this scheme, such as ftp, in SOURCE and in lists. Repeat "
    "the option to allow several.",
)
@click.option(
    "--allow-private",
    is_flag=True,
    help="Read http URLs in lists, and follow redirects, that lead to addresses that are "
    "not public, such as 127.0.0.1.",
)
@click.option(
    "--on",
    type=click.Choice(["here", "ray"]),
    default="here",
    show_default=True,
    help="Compute in this process, or on a Ray cluster.",
)
@click.option(
    "--address",
    metavar="ADDRESS",
    help="Connect to the Ray cluster at this address, such as ray://head:10001.  "
    "[default: the one that `ray.init` finds]",
)
@click.option(
    "--calibrate",
    "look",
    flag_value="calibrate",
    help="Measure batch sizes, engines and precisions on images of SOURCE, print the fastest "
    "options, and write nothing.",
)
@click.option(
    "--profile",
    "look",
    flag_value="profile",
    help="Embed the first 2,000 images, print where the time goes, and write nothing.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str,
    name: str,
    weights: str,
    weights_key: str | None,
    allow_versions: bool,
    out: Path | None,
    device: str,
    as_json: bool,
    column: str,
    image_column: str | None,
    allow_schemes: tuple[str, ...],
    allow_private: bool,
    on: str,
    address: str | None,
    look: str | None,
    background: Any,
    value_range: Any,
    **others: Any,
) -> None:
    """Embed images into a file.

    SOURCE is a folder, a glob, a list of paths (.txt, .csv, .jsonl, .parquet), tar files, Parquet
    files or a dataset folder that contain images, or a URL (http, https, s3, gs, az, abfs, hf).

    headstrip writes one row per image: path, embedding, width, height and error. An image that
    cannot be embedded gets a row with the reason, and the exit code is 1.

    Run the same command again to resume a run that stopped early, or to add new images:
    headstrip keeps finished rows in OUT.parts, and uses the settings that OUT was started with.
    """
    if (out is None) == (look is None):
        raise UsageFailure(
            "`headstrip embed` needs exactly one of -o OUT, --calibrate and --profile. Pass -o OUT "
            "to write embeddings, or one of the others to measure and write nothing."
        )
    images = _check_paths(
        source,
        out,
        column=column,
        image_column=image_column,
        allow_schemes=allow_schemes,
        allow_private=allow_private,
    )
    _refuse_inputs(out, (name, weights, weights.partition("=")[2]))
    with _naming_what_to_install(out, name):
        inputs = {each: others.pop(each) for each in INPUT_OPTIONS}
        encoder = build_image_encoder(
            context, name, weights, weights_key, allow_versions, device, **inputs
        )
    with_pixels(encoder, background, value_range)

    from headstrip.embed.settings import EmbedOptions, EmbedSettings
    from headstrip.system.allocator import keep_freed_memory

    keep_freed_memory()
    settings = EmbedSettings(**{each: others.pop(each) for each in _SETTINGS})
    options = EmbedOptions(**others)
    if look == "calibrate":
        _calibrate(encoder, images, settings, options, as_json)
    elif look == "profile":
        _profile(encoder, images, settings, options, as_json)
    elif out is not None:
        report = _embed(encoder, images, out, settings, options, on, address)
        _print_report(encoder, report, as_json)
        if report.bad:
            context.exit(PARTLY)


def _embed(
    encoder: Encoder,
    source: Source,
    out: Path,
    settings: EmbedSettings,
    options: EmbedOptions,
    on: str,
    address: str | None,
) -> EmbedReport:
    """Write the file, in this process or on a Ray cluster."""
    from headstrip.embed.run import embed_source

    compute = None
    if on == "ray":
        from headstrip.embed.cluster import on_ray

        compute = on_ray(address)
    with _progress() as progress:
        return embed_source(
            encoder,
            source,
            out,
            settings=settings,
            options=options,
            progress=progress,
            say=warn,
            compute=compute,
        )


def _print_report(encoder: Encoder, report: EmbedReport, as_json: bool) -> None:
    """Print what was written, and warn of images that were left out, used in part, or bad."""
    from headstrip.embed.sources import sentence

    if as_json:
        print_json(_as_json(encoder, report))
    else:
        print_line(
            f"{report.out}: {report.rows} rows, {report.rows - report.bad} of them with an "
            f"embedding of {encoder.output_dim} numbers by {encoder.spec.qualified_name}"
        )
    if skipped := sentence(report.left_out):
        warn(skipped)
    warn_of_pages(
        report.stages.several, report.stages.severals, "Pass --pages all to embed every page."
    )
    if not report.bad:
        return
    warn(f"{report.bad} of {report.rows} images could not be embedded:")
    for path, reason in islice(report.failed.items(), _SHOWN_FAILURES):
        warn(f"  {path}: {reason}")
    more = report.bad - _SHOWN_FAILURES
    if more > 0:
        warn(f"  and {more} more; the column `error` of the file has all of them.")


def _calibrate(
    encoder: Encoder, source: Source, settings: EmbedSettings, options: EmbedOptions, as_json: bool
) -> None:
    """Measure engines and precisions, and print the fastest options."""
    from headstrip.embed.calibrate import choose_engine, measure_engines
    from headstrip.embed.parallelism import choose_parallelism

    used, measured = measure_engines(encoder, source, settings, options)
    rows = [each.to_json() for each in measured]
    running = choose_parallelism(used, device=encoder.place()[0].type)
    size, threads, lanes = running.batch_size, running.threads, running.inference_threads
    if as_json:
        layout = {"batch_size": size, "lanes": lanes, "threads": threads}
        print_json([{**row, **layout} for row in rows])
        return
    print_line(f"batches of {size}, {lanes} at once, threads per batch: {threads}")
    for row in rows:
        print_line(_engine_line(row))
    best = choose_engine(measured)
    print_line(
        f"The fastest within the tolerance: --batch-size {size} --threads {threads} "
        f"--engine {best.engine} --precision {best.precision}"
    )


def _profile(
    encoder: Encoder, source: Source, settings: EmbedSettings, options: EmbedOptions, as_json: bool
) -> None:
    """Measure the stages of a run, and print where the time goes."""
    from headstrip.embed.profile import profile

    with _progress() as progress:
        found = profile(encoder, source, settings, options, progress)
    if as_json:
        print_json(found)
        return
    seconds, lanes = found["seconds"], found["lanes"]
    print_lines(
        f"{found['images']} images in {seconds:.1f} s: {found['images_per_second']:.1f} images/s\n"
        f"preparing {found['preparing_seconds'] / seconds:4.0%} of the time, before the rest\n"
        f"network   {found['network_seconds'] / (seconds * lanes):4.0%} of the time of {lanes} "
        "inference threads\n"
        f"waiting   {found['waiting_seconds'] / (seconds * lanes):4.0%} of it for decoded images\n"
        f"writing   {found['writing_seconds'] / seconds:4.0%} of the time of the writer\n"
        f"The bottleneck is the {found['bottleneck']}."
    )


def _engine_line(row: dict[str, Any]) -> str:
    name = f"{row['engine']:<12} {row['precision']:<5}"
    if row["unavailable"]:
        return f"{name} {row['unavailable']}"
    return (
        f"{name} {row['images_per_second']:8.1f} images/s  cosine {row['cosine_min']:.7f} or more"
    )


def _check_paths(source: str, out: Path | None, **options: Any) -> Source:
    """Refuse paths that cannot work, before torch is imported and weights are downloaded."""
    from headstrip.embed.files import check_out, check_suffix
    from headstrip.embed.sources import LeftOut, items_of, sentence, source_of

    try:
        if out is not None:
            check_out(out)
            check_suffix(out)
        images, left_out = source_of(source, **options), LeftOut()
        if next(items_of(images, left_out.note), None) is None:
            reason = sentence(left_out.counts()) or "Check the path."
            raise HeadstripError(f"There is no image in {source!r}. {reason}")
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error
    return images


@contextmanager
def _naming_what_to_install(out: Path | None, name: str) -> Iterator[None]:
    """Extend the error for an unknown backbone by the plugin that wrote the existing file."""
    try:
        yield
    except UnknownBackboneError as error:
        from headstrip.embed.rebuild_encoder import to_install_for

        raise UnknownBackboneError(f"{error}{to_install_for(out, name) if out else ''}") from error


def _refuse_inputs(out: Path | None, inputs: tuple[str, ...]) -> None:
    """Refuse to overwrite a manifest or a weights file that the encoder is built from."""
    for text in inputs:
        file = Path(text)
        if out is not None and text and file.is_file() and out.exists() and out.samefile(file):
            raise UsageFailure(
                f"-o {str(out)!r} would overwrite a file that the encoder is built from. Pass "
                "another file to -o."
            )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
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


def _as_json(encoder: Encoder, report: EmbedReport) -> dict[str, Any]:
    fingerprint = encoder.fingerprint
    return {
        "out": str(report.out),
        "rows": report.rows,
        "dim": encoder.output_dim,
        "backbone": fingerprint.name,
        "weights": fingerprint.weights,
        "weights_file": encoder.weights_file,
        "weights_sha256": fingerprint.weights_sha256,
        "identity": fingerprint.identity,
        "bad": report.bad,
        "computed": report.computed,
        "left_out": dict(report.left_out),
        "several_pages": report.stages.severals,
        "failed": [{"path": path, "error": error} for path, error in report.failed.items()],
    }
