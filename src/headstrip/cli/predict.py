"""``headstrip predict``: predict attributes of images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import (
    INPUT_OPTIONS,
    backbone_option,
    build_image_encoder,
    open_registry,
    torch_device,
)
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
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line, warn
from headstrip.cli.pixels import with_pixels
from headstrip.errors import HeadstripError
from headstrip.spec import is_folder

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder
    from headstrip.encoder.predictors_file import FittedPredictors

_PREDICTIONS = ("all_classes", "threshold", "abstain_below")
_SECTIONS = {
    "Predictors and output": ("predictors", "out", "from_embeddings", *_PREDICTIONS),
    "Encoder": (
        "name",
        "weights",
        "weights_key",
        *INPUT_OPTIONS,
        "allow_versions",
        "allow_http",
    ),
    **SECTIONS,
    "Resuming": ("keep_embeddings", "overwrite", *SECTIONS["Resuming"]),
}
_SOURCE_OPTIONS = ("column", "image_column", "allow_schemes", "allow_private")
_EXAMPLES = """\b
Examples:
  headstrip predict photos -p cells.predictors.safetensors -o cells.csv
  headstrip predict photos -p cells.predictors.safetensors --weights mine.pth -o cells.parquet
  headstrip predict photos -b cells/ -o cells.csv
  headstrip predict --from-embeddings photos.parquet -p cells.predictors.safetensors -o cells.csv
"""
_PROBABILITY = click.FloatRange(0, 1)


@click.command(name="predict", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("source", required=False)
@click.option(
    "-p",
    "--predictors",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Use the predictors in this file, which `headstrip fit` wrote.  [default: those in the "
    "folder of -b]",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Write one row per image to this file, .parquet or .csv. headstrip replaces an existing "
    "file.",
)
@click.option(
    "--from-embeddings",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Read no image: predict from this file, which `headstrip embed` wrote.",
)
@click.option(
    "--all",
    "all_classes",
    is_flag=True,
    help="Write the probability of every class too, in columns such as 'colour: red'.",
)
@click.option(
    "--threshold",
    type=_PROBABILITY,
    default=0.5,
    show_default=True,
    metavar="P",
    help="Write the labels whose probability is at least P, for attributes with several labels.",
)
@click.option(
    "--abstain-below",
    type=_PROBABILITY,
    default=0.0,
    show_default=True,
    metavar="P",
    help="Leave the class of an image empty if its probability is below P.",
)
@partial(backbone_option, required=False)
@run_options
@click.option(
    "--keep-embeddings",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep the embeddings in this file, such as photos.parquet. If it exists, compute only "
    "images that it does not have.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Compute every image again, also those of a run that stopped early.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str | None,
    predictors: Path | None,
    out: Path,
    from_embeddings: Path | None,
    keep_embeddings: Path | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Predict attributes of images.

    SOURCE is a source that `headstrip embed` takes: a folder, a glob, a list of paths, tar files,
    Parquet files, a dataset folder or a URL. headstrip builds the encoder that the file of
    predictors names, and embeds the images with it. If you pass another encoder with -b, headstrip
    refuses it. A folder that encoder.save wrote (-b cells/) has both the encoder and the
    predictors.

    OUT has one row per image: its path, the value of each attribute, and the probability of that
    value. If an image has no embedding, its row has the reason, and the exit code is 1.

    Run the same command again to resume a run that stopped early: headstrip keeps finished
    embeddings in OUT.predicting until OUT is complete.
    """
    if (source is None) == (from_embeddings is None):
        raise UsageFailure(
            "`headstrip predict` needs either SOURCE or --from-embeddings. Pass a source of "
            "images, such as a folder, or a file that `headstrip embed` wrote."
        )
    predictors = predictors or _saved_predictors(others["name"])
    _check_paths([predictors, *([from_embeddings] if from_embeddings else [])], out)
    is_source_option = others["name"] and not is_folder(others["name"])
    if source is None and (is_source_option or others["weights"] != "DEFAULT" or keep_embeddings):
        raise UsageFailure(
            "--from-embeddings reads no image. Leave out -b, --weights and --keep-embeddings."
        )
    from headstrip.attributes.predict import PredictOptions, predict_file

    options = PredictOptions(*(others.pop(each) for each in _PREDICTIONS))
    if from_embeddings is not None:
        fitted = _load(predictors)
        report = predict_file(fitted, from_embeddings, out, options)
        found = {"out": str(out), "rows": report.rows, "bad": report.bad}
    else:
        found = _predict_source(
            context, str(source), predictors, out, options, keep_embeddings, others
        )
    if as_json:
        print_json(found)
    else:
        print_line(f"{out}: {found['rows']:,} rows, {found['bad']:,} of them without an embedding")
    if found["bad"]:
        context.exit(PARTLY)


def _predict_source(
    context: click.Context,
    source: str,
    predictors: Path,
    out: Path,
    options: Any,
    keep_embeddings: Path | None,
    others: dict[str, Any],
) -> dict[str, Any]:
    """Predict the images of a source, and return what `--json` prints."""
    from headstrip.attributes.predict import predict_source
    from headstrip.embed.settings import EmbedOptions, EmbedSettings
    from headstrip.system.allocator import keep_freed_memory

    images = find_source(source, **{each: others.pop(each) for each in _SOURCE_OPTIONS})
    fitted = _load(predictors)
    pixels = others.pop("background"), others.pop("value_range")
    encoder = with_pixels(_encoder(context, fitted, others), *pixels)
    keep_freed_memory()
    settings = EmbedSettings(**{each: others.pop(each) for each in SETTINGS})
    with progress_bar() as progress:
        report, embedded = predict_source(
            fitted,
            encoder,
            images,
            out,
            options,
            embeddings=keep_embeddings,
            settings=settings,
            run=EmbedOptions(**others),
            progress=progress,
            notify=warn,
        )
    warn_about(embedded)
    return {
        "out": str(out),
        "rows": report.rows,
        "bad": report.bad,
        "computed": embedded.computed,
        "left_out": dict(embedded.left_out),
        "failed": [{"path": path, "error": error} for path, error in embedded.failed.items()],
    }


def _encoder(context: click.Context, fitted: FittedPredictors, others: dict[str, Any]) -> Encoder:
    """Build the encoder that the user names, otherwise the one that the predictors name."""
    inputs = {each: others.pop(each) for each in INPUT_OPTIONS}
    name, device = others.pop("name"), others.pop("device")
    weights, weights_key = others.pop("weights"), others.pop("weights_key")
    allow_versions = others.pop("allow_versions")
    if name is not None:
        return build_image_encoder(
            context, name, weights, weights_key, allow_versions, device, **inputs
        )
    _refuse_inputs(inputs)
    from headstrip.embed.rebuild_encoder import build_described, is_described

    shown = repr(fitted.path)
    if not is_described(fitted.encoder):
        raise HeadstripError(
            f"{shown} does not name the encoder of its predictors. Fit them to a file that "
            "`headstrip embed` wrote."
        )
    open_registry(context)
    with plugins_on_stderr():
        return build_described(
            fitted.encoder,
            shown,
            content="predictors for",
            weights=None if weights == "DEFAULT" else weights,
            weights_key=weights_key,
            device=torch_device(device),
        )


def _refuse_inputs(inputs: Mapping[str, Any]) -> None:
    """Refuse options that would change the encoder of the predictors."""
    for name, value in inputs.items():
        if value is not None and (name, value) != ("new_channels", "mean"):
            option = f"--{name.replace('_', '-')}"
            raise UsageFailure(
                f"The file of predictors states the input of its encoder. Leave out {option}, or "
                "pass the encoder with -b."
            )


def _saved_predictors(name: str | None) -> Path:
    """Return the file of predictors in the folder that the user names.

    Raises:
        UsageFailure: The user names no folder, or the folder has no predictors.
        ManifestError: The folder is damaged.
    """
    if name is None or not is_folder(name):
        raise UsageFailure(
            "`headstrip predict` needs predictors. Pass a file that `headstrip fit` wrote with -p "
            "FILE, or a folder that encoder.save wrote with -b FOLDER/."
        )
    from headstrip.encoder.saved_folder import read_folder

    saved = read_folder(name)
    if saved.predictors is None:
        raise UsageFailure(
            f"The folder {saved.shown} has an encoder without predictors. Pass a file that "
            "`headstrip fit` wrote with -p FILE."
        )
    return saved.predictors


def _load(path: Path) -> FittedPredictors:
    from headstrip.encoder.predictors_file import load_predictors

    return load_predictors(path)


def _check_paths(inputs: list[Path], out: Path) -> None:
    """Refuse paths that cannot work, before slow libraries are imported."""
    from headstrip.embed.files import check_out

    for file in inputs:
        if not file.is_file():
            raise UsageFailure(f"There is no file {str(file)!r}. Check the path.")
        if out.exists() and out.samefile(file):
            raise UsageFailure(
                f"--out {str(out)!r} would overwrite an input file. Pass another file name."
            )
    try:
        check_out(out)
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error
