"""``headstrip embed``: a source of images into a file of embeddings."""

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
from headstrip.cli.output import json_option, print_json, print_line, print_lines, warn
from headstrip.cli.pixels import pixel_options, warn_of_pages, with_pixels
from headstrip.errors import HeadstripError, UnknownBackboneError

if TYPE_CHECKING:
    from headstrip.embed.plan import Settings
    from headstrip.embed.run import EmbedReport, Options
    from headstrip.embed.sources import Source
    from headstrip.encoder.encoder import Encoder

_NAMED = 5

Decorator = Callable[[Any], Any]


# Older releases of click accept no type argument.
class _EngineName(click.ParamType):  # type: ignore[type-arg]
    """The name of an engine, or auto. Names are looked up only when a command needs them."""

    name = "engine"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Show all names in the help."""
        from headstrip.embed.engines.registry import engine_names

        return f"[{'|'.join(('auto', *engine_names()))}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a name that no engine has."""
        from headstrip.embed.engines.registry import check_engine

        if value != "auto":
            try:
                check_engine(value)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return value


def _settings_options(function: Any) -> Any:
    """Add what the bits of the embeddings depend on."""
    options: list[Decorator] = [
        click.option(
            "--batch-size", type=click.IntRange(min=1),
            help="Images that go through the network at once.",
        ),
        click.option(
            "--engine", type=_EngineName(),
            help="What runs the network; auto is the fastest that stays within the tolerance.",
        ),
        click.option(
            "--precision", type=click.Choice(["fp32", "bf16", "auto"]),
            help="What the network computes with.",
        ),
        click.option(
            "--route", type=click.Choice(["exact", "fast"]),
            help="exact decodes as declared; fast decodes JPEGs at a fraction of their size.",
        ),
        click.option(
            "--dtype", type=click.Choice(["float32", "float16"]), help="What is kept of a number.",
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), help="Threads that one batch has.",
        ),
    ]  # fmt: skip
    return _with(options, function)


def _run_options(function: Any) -> Any:
    """Add what a run does besides."""
    options: list[Decorator] = [
        click.option(
            "--device", metavar="DEVICE", default="auto", show_default=True,
            help="Where the network runs, such as cpu or cuda:1; auto is a GPU where there is one.",
        ),
        click.option(
            "--pages", type=click.Choice(["first", "all"]), default="first", show_default=True,
            help="Embed the first page of a file, or each as a row of its own, such as a.tif#2.",
        ),
        click.option("--workers", type=click.IntRange(min=0), help="Processes that decode."),
        click.option("--lanes", type=click.IntRange(min=1), help="Batches in the network at once."),
        click.option("--overwrite", is_flag=True, help="Begin anew where OUT is there."),
        click.option("--retry-failed", is_flag=True, help="Try the bad images of OUT again."),
        click.option(
            "--checksum", is_flag=True,
            help="Tell by a file's bytes whether it changed, not by its size and time.",
        ),
        click.option(
            "--exact", is_flag=True,
            help="Refuse to go on with rows of other versions, or of another machine.",
        ),
        click.option(
            "--max-errors", type=click.IntRange(min=0), help="End after more bad images than that.",
        ),
        click.option(
            "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0,
            show_default=True, help="Seconds that the decoding of an image may take.",
        ),
        click.option(
            "--column", default="path", show_default=True,
            help="Column of a list that has the paths.",
        ),
        click.option("--image-column", help="Column of Parquet files that has the images."),
        click.option(
            "--allow-scheme", "allow_schemes", metavar="NAME", multiple=True,
            help="Read urls of this scheme too, such as ftp, also where a list has them. Repeat it "
            "for several.",
        ),
        click.option(
            "--allow-private", is_flag=True,
            help="Read http urls of a list, and follow redirects, that lead to addresses that are "
            "not public, such as 127.0.0.1.",
        ),
        click.option(
            "--on", type=click.Choice(["here", "ray"]), default="here", show_default=True,
            help="What computes: this process, or a Ray cluster.",
        ),
        click.option("--address", help="Address of the Ray cluster, as `ray.init` takes it."),
    ]  # fmt: skip
    return _with(options, function)


def _with(options: list[Decorator], function: Any) -> Any:
    for option in reversed(options):
        function = option(function)
    return function


@click.command(name="embed")
@click.argument("source")
@backbone_option
@click.option(
    "-o", "--out", metavar="OUT", type=click.Path(path_type=Path),
    help="Parquet file to write, or .npy with a Parquet file beside it.",
)  # fmt: skip
@_settings_options
@pixel_options
@_run_options
@click.option(
    "--calibrate",
    "look",
    flag_value="calibrate",
    help="Measure batches, engines and precisions on images of SOURCE, print the fastest options "
    "and write nothing.",
)
@click.option(
    "--profile",
    "look",
    flag_value="profile",
    help="Embed the first 2,000 images, say where the time goes, and write nothing.",
)
@json_option
@click.pass_context
def command(
    context: click.Context, /, source: str, name: str, weights: str, allow_versions: bool,
    out: Path | None, as_json: bool, column: str, image_column: str | None,
    allow_schemes: tuple[str, ...], allow_private: bool, on: str, address: str | None,
    look: str | None, background: Any, value_range: Any, **asked: Any,
) -> None:  # fmt: skip
    """Embed images into a file.

    SOURCE is a folder, a glob, a list of paths (.txt, .csv, .jsonl, .parquet), tar files, Parquet
    files or a dataset folder with images in them, or a url (http, https, s3, gs, az, abfs, hf).
    Every image is a row: path, embedding, width, height and error. A bad image is a row with its
    reason, and the exit code is 1 then.

    What is done is kept in OUT.parts: the same line goes on after any end.
    """
    if (out is None) == (look is None):
        raise UsageFailure(
            "Name the file to write with -o OUT, or look first with --calibrate or --profile, "
            "which write nothing."
        )
    images = _check_paths(
        source, out, column=column, image_column=image_column, allow_schemes=allow_schemes,
        allow_private=allow_private,
    )  # fmt: skip
    _refuse_inputs(out, (name, weights, weights.partition("=")[2]))
    with _saying_what_to_install(out, name):
        encoder = build_image_encoder(context, name, weights, allow_versions, asked.pop("device"))
    with_pixels(encoder, background, value_range)

    from headstrip.embed.run import embed_source
    from headstrip.embed.sources import sentence
    from headstrip.system.allocator import keep_freed_memory

    keep_freed_memory()
    settings, options = _split(asked)
    if out is None:
        _look(encoder, images, look == "profile", settings, options, as_json)
        return
    compute = None
    if on == "ray":
        from headstrip.embed.cluster import on_ray

        compute = on_ray(address)
    with _progress() as progress:
        report = embed_source(
            encoder, images, out, settings=settings, options=options, progress=progress, say=warn,
            compute=compute,
        )  # fmt: skip
    if as_json:
        print_json(_as_json(encoder, report))
    else:
        good = report.rows - report.bad
        print_line(
            f"{report.out}: {report.rows} rows, {good} of them with an embedding "
            f"of {encoder.output_dim} numbers by {encoder.spec.qualified_name}"
        )
    if said := sentence(report.left_out):
        warn(said)
    warn_of_pages(report.stages.several, report.stages.severals, "Pass --pages all for all.")
    if report.bad:
        _warn_of(report)
        context.exit(PARTLY)


def _look(
    encoder: Encoder, source: Source, is_profile: bool, settings: Settings, options: Options,
    as_json: bool,
) -> None:  # fmt: skip
    """Print what the engines, or the stages of a run, measure."""
    from headstrip.embed.calibrate import choose_engine
    from headstrip.embed.engine_choice import measure_engines
    from headstrip.embed.profile import profile

    if not is_profile:
        used, measured = measure_engines(encoder, source, settings, options)
        rows = [each.to_json() for each in measured]
        layout = _layout_of(encoder, used)
        if as_json:
            print_json([{**row, **layout} for row in rows])
        else:
            print_line(
                "batches of {batch_size}, {lanes} at once with threads: {threads}".format(**layout)
            )
            for row in rows:
                print_line(_engine_line(row))
            best = choose_engine(measured)
            print_line(
                f"The fastest within the tolerance: --batch-size {layout['batch_size']} --threads "
                f"{layout['threads']} --engine {best.engine} --precision {best.precision}"
            )
        return
    with _progress() as progress:
        found = profile(encoder, source, settings=settings, options=options, progress=progress)
    told = found.to_json()
    if as_json:
        print_json(told)
        return
    busy = found.seconds * found.lanes
    print_lines(
        f"{found.images} images in {found.seconds:.1f} s: "
        f"{told['images_per_second']:.1f} images/s\n"
        f"preparing {found.stages.prepared / found.seconds:4.0%} of the time, before all else\n"
        f"network   {found.stages.forward / busy:4.0%} of the time of {found.lanes} lanes\n"
        f"waiting   {found.stages.decoded / busy:4.0%} for decoded images\n"
        f"writing   {found.stages.written / found.seconds:4.0%} of the time of the writer\n"
        f"The bottleneck is the {found.bottleneck}."
    )


def _layout_of(encoder: Encoder, settings: Settings) -> dict[str, int | None]:
    from headstrip.embed.parallelism import choose_parallelism

    running = choose_parallelism(settings, device=encoder.place()[0].type)
    return {
        "batch_size": running.batch_size,
        "lanes": running.inference_threads,
        "threads": running.threads,
    }


def _engine_line(row: dict[str, Any]) -> str:
    name = f"{row['engine']:<12} {row['precision']:<5}"
    if row["unavailable"]:
        return f"{name} {row['unavailable']}"
    return (
        f"{name} {row['images_per_second']:8.1f} images/s  cosine {row['cosine_min']:.7f} or more"
    )


def _check_paths(source: str, out: Path | None, **options: Any) -> Source:
    """Refuse paths that cannot work before torch is imported and weights are fetched."""
    from headstrip.embed.files import check_out, check_suffix
    from headstrip.embed.sources import LeftOut, items_of, sentence, source_of

    try:
        if out is not None:
            check_out(out)
            check_suffix(out)
        images, left_out = source_of(source, **options), LeftOut()
        if next(items_of(images, left_out.note), None) is None:
            said = sentence(left_out.counts()) or "Check the path."
            raise HeadstripError(f"There is no image in {source!r}. {said}")
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error
    return images


@contextmanager
def _saying_what_to_install(out: Path | None, name: str) -> Iterator[None]:
    """Add to the error for an unknown backbone what the file that is there was written with."""
    try:
        yield
    except UnknownBackboneError as error:
        from headstrip.embed.rebuild_encoder import to_install_for

        raise UnknownBackboneError(f"{error}{to_install_for(out, name) if out else ''}") from error


def _refuse_inputs(out: Path | None, inputs: tuple[str, ...]) -> None:
    """Refuse to write over a manifest or a weights file that the encoder is made of."""
    for text in inputs:
        file = Path(text)
        if out is not None and text and file.is_file() and out.exists() and out.samefile(file):
            raise UsageFailure(
                f"{str(out)!r} is a file that the encoder is made of, and would be replaced. Name "
                "another file to write."
            )


def _split(asked: dict[str, Any]) -> tuple[Settings, Options]:
    from headstrip.embed.plan import Settings
    from headstrip.embed.run import Options

    names = ("batch_size", "engine", "precision", "route", "dtype", "threads")
    settings = Settings(**{name: asked.pop(name) for name in names})
    return settings, Options(**asked)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar with the rate on a terminal, and nothing in a pipe."""
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
            said = f"{speed:.1f} images/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=said)

        yield show


def _warn_of(report: EmbedReport) -> None:
    warn(f"{report.bad} of {report.rows} images could not be embedded:")
    for path, reason in islice(report.failed.items(), _NAMED):
        warn(f"  {path}: {reason}")
    more = report.bad - _NAMED
    if more > 0:
        warn(f"  and {more} more; the column `error` of the file has all of them.")


def _as_json(encoder: Encoder, report: EmbedReport) -> dict[str, Any]:
    fingerprint = encoder.fingerprint
    return {
        "out": str(report.out), "rows": report.rows, "dim": encoder.output_dim,
        "backbone": fingerprint.name, "weights": fingerprint.weights,
        "weights_file": encoder.weights_file,
        "weights_sha256": fingerprint.weights_sha256, "identity": fingerprint.identity,
        "bad": report.bad, "computed": report.computed, "left_out": dict(report.left_out),
        "several_pages": report.stages.severals,
        "failed": [{"path": path, "error": error} for path, error in report.failed.items()],
    }  # fmt: skip
