"""``headstrip embed``: embed many images into one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import INPUT_OPTIONS, backbone_option, build_image_encoder
from headstrip.cli.embedding_run import (
    SECTIONS,
    SETTINGS,
    find_source,
    progress_bar,
    run_options,
    warn_about,
)
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.help_sections import SectionedCommand
from headstrip.cli.output import json_option, print_json, print_line, print_lines, warn
from headstrip.cli.pixels import with_pixels
from headstrip.errors import HeadstripError, UnknownBackboneError

if TYPE_CHECKING:
    from headstrip.embed.report import EmbedReport
    from headstrip.embed.settings import EmbedOptions, EmbedSettings
    from headstrip.embed.sources import Source
    from headstrip.encoder.encoder import Encoder

_MAPS = ("maps", "tokens", "maps_dtype")
_SETTINGS = (*SETTINGS, "dtype", *_MAPS)

_SECTIONS = {
    "Encoder and output": (
        "name",
        "weights",
        "weights_key",
        *INPUT_OPTIONS,
        "allow_versions",
        "allow_http",
        "out",
        "keep",
        "overwrite",
    ),
    **SECTIONS,
    "Settings that the embeddings depend on": (*SETTINGS, "dtype"),
    "Feature maps": _MAPS,
    "Running": (*SECTIONS["Running"], "on", "address"),
    "Measuring first": ("calibrate", "profile"),
}

_EXAMPLES = """\b
Examples:
  headstrip embed photos -b resnet50 -o photos.parquet
  headstrip embed 'photos/**/*.jpg' -b vit_b_16 -o photos.npy --dtype float16
  headstrip embed images.csv --column file -b resnet50 -o images.parquet
  headstrip embed cells.csv --keep colour,shape -b resnet50 -o cells.parquet
  headstrip embed scans -b resnet50 --in-chans 1 -o scans.parquet
  headstrip embed photos -b resnet50 --maps -1 -o photos.parquet
  headstrip embed photos -b resnet50 --calibrate
"""


def _levels(_: click.Context, __: click.Parameter, text: str | None) -> list[int] | None:
    """Parse the numbers of levels."""
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} must be numbers of levels, such as -1 or 2,-1."
        ) from error


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
@run_options
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help="Store embeddings in this format.  [default: float32]",
)
@click.option(
    "--maps",
    metavar="LEVELS",
    callback=_levels,
    help="Also store the feature maps of these levels, such as -1 (the last) or 2,-1. `headstrip "
    "show` lists them.",
)
@click.option(
    "--tokens",
    is_flag=True,
    default=None,
    help="Also store the tokens of the last level of a transformer.",
)
@click.option(
    "--maps-dtype",
    type=click.Choice(["float16", "float32"]),
    help="Store maps and tokens in this format.  [default: float16]",
)
@click.option(
    "--keep",
    metavar="NAMES",
    default="",
    help="Copy these columns of the .csv, .tsv or .parquet list SOURCE into OUT, such as "
    "colour,shape, or all of them with: all.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Overwrite OUT if it exists, and compute every row again.",
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
    is_flag=True,
    help="Measure batch sizes, engines and precisions on images of SOURCE, print the fastest "
    "options, and write nothing.",
)
@click.option(
    "--profile",
    is_flag=True,
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
    keep: str,
    allow_schemes: tuple[str, ...],
    allow_private: bool,
    on: str,
    address: str | None,
    calibrate: bool,
    profile: bool,
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
    headstrip keeps finished rows in OUT.parts, in files of up to 1,024 rows, and uses the settings
    that OUT was started with.
    """
    if (out is not None) + calibrate + profile != 1:
        raise UsageFailure(
            "`headstrip embed` needs exactly one of -o OUT, --calibrate and --profile. Pass -o OUT "
            "to write embeddings, or one of the others to measure and write nothing."
        )
    if address is not None and on == "here":
        raise UsageFailure(
            f"--address {address} names a Ray cluster, and this run computes here. Pass --on ray "
            "too, or leave out --address."
        )
    if calibrate and any(others[each] for each in _MAPS):
        raise UsageFailure(
            "--calibrate measures embeddings only. Leave out --maps, --tokens and --maps-dtype."
        )
    images = _check_paths(
        source,
        out,
        column=column,
        image_column=image_column,
        keep="all" if keep == "all" else [name for name in keep.split(",") if name],
        allow_schemes=allow_schemes,
        allow_private=allow_private,
    )
    _refuse_inputs(out, (name, weights, weights.partition("=")[2]))

    from headstrip.embed.settings import EmbedOptions, EmbedSettings

    settings = EmbedSettings(**{each: others.pop(each) for each in _SETTINGS})
    settings.check_engine_of_maps()
    with _naming_what_to_install(out, name):
        inputs = {each: others.pop(each) for each in INPUT_OPTIONS}
        encoder = build_image_encoder(
            context,
            name,
            weights,
            weights_key,
            allow_versions,
            device,
            maps=settings.maps,
            **inputs,
        )
    with_pixels(encoder, background, value_range)

    from headstrip.system.allocator import keep_freed_memory

    keep_freed_memory()
    options = EmbedOptions(**others)
    if calibrate:
        _calibrate(encoder, images, settings, options, as_json)
    elif profile:
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
    with progress_bar() as progress:
        return embed_source(
            encoder,
            source,
            out,
            settings=settings,
            options=options,
            progress=progress,
            notify=warn,
            compute=compute,
        )


def _print_report(encoder: Encoder, report: EmbedReport, as_json: bool) -> None:
    """Print what was written, and warn of images that were left out, used in part, or bad."""
    reused = report.rows - report.computed
    if as_json:
        print_json(_as_json(encoder, report))
    else:
        print_line(
            f"{report.out}: {report.rows} rows, {report.rows - report.bad} of them with an "
            f"embedding of {encoder.output_dim} numbers by {encoder.spec.qualified_name}"
            + (f"; {reused} of the rows are from earlier runs" if reused else "")
        )
    warn_about(report)


def _calibrate(
    encoder: Encoder, source: Source, settings: EmbedSettings, options: EmbedOptions, as_json: bool
) -> None:
    """Measure engines and precisions, and print the fastest options."""
    from headstrip.embed.calibrate import choose_engine, measure_engines
    from headstrip.embed.parallelism import choose_parallelism

    used, measured = measure_engines(encoder, source, settings, options)
    rows = [each.to_json() for each in measured]
    running = choose_parallelism(used, options, device=encoder.device.type)
    size, threads, at_once = running.batch_size, running.threads, running.inference_threads
    if as_json:
        layout = {
            "batch_size": size,
            "inference_threads": at_once,
            "threads": threads,
            "decode_mode": settings.decode_mode,
        }
        print_json([{**row, **layout} for row in rows])
        return
    print_line(f"batches of {size}, {at_once} at once, threads per batch: {threads}")
    for row in rows:
        print_line(_engine_line(row))
    best = choose_engine(measured)
    asked = {"inference-threads": options.inference_threads, "decode-mode": settings.decode_mode}
    flags = {
        "batch-size": size,
        "threads": threads,
        "engine": best.engine,
        "precision": best.precision,
        **{name: value for name, value in asked.items() if value is not None},
    }
    text = " ".join(f"--{name} {value}" for name, value in flags.items())
    print_line(f"The fastest within the tolerance: {text}")


def _profile(
    encoder: Encoder, source: Source, settings: EmbedSettings, options: EmbedOptions, as_json: bool
) -> None:
    """Measure the stages of a run, and print where the time goes."""
    from headstrip.embed.profile import profile

    with progress_bar() as progress:
        found = profile(encoder, source, settings, options, progress)
    if as_json:
        print_json(found)
        return
    seconds, threads = found["seconds"], found["inference_threads"]
    total = seconds * threads
    print_lines(
        f"{found['images']} images in {seconds:.1f} s: {found['images_per_second']:.1f} images/s\n"
        f"preparing {found['preparing_seconds'] / seconds:4.0%} of the time, before the rest\n"
        f"network   {found['network_seconds'] / total:4.0%} of the time of {threads} inference "
        "threads\n"
        f"waiting   {found['waiting_seconds'] / total:4.0%} of it for decoded images\n"
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

    if out is not None:
        try:
            check_out(out)
            check_suffix(out)
        except HeadstripError as error:
            raise UsageFailure(str(error)) from error
    return find_source(source, **options)


@contextmanager
def _naming_what_to_install(out: Path | None, name: str) -> Iterator[None]:
    """Add to the error for an unknown backbone the plugin that wrote the existing file."""
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
        "several_pages": report.stages.multipage_count,
        "failed": [{"path": path, "error": error} for path, error in report.failed.items()],
    }
