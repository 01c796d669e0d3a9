"""``headstrip predict``: predict attributes of images."""

from __future__ import annotations

from pathlib import Path

import click

from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.output import json_option, print_json, print_line
from headstrip.errors import HeadstripError

_EXAMPLES = """\b
Example:
  headstrip predict --from-embeddings photos.parquet -p cells.predictors.safetensors -o cells.csv
"""
_PROBABILITY = click.FloatRange(0, 1)


@click.command(name="predict", epilog=_EXAMPLES)
@click.option(
    "--from-embeddings",
    "embeddings",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Predict the images in this file, which `headstrip embed` wrote.",
)
@click.option(
    "-p",
    "--predictors",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Use the predictors in this file, which `headstrip fit` wrote.",
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
@json_option
@click.pass_context
def command(
    context: click.Context,
    embeddings: Path,
    predictors: Path,
    out: Path,
    all_classes: bool,
    threshold: float,
    abstain_below: float,
    as_json: bool,
) -> None:
    """Predict attributes of images from their embeddings.

    The file has one row per image: its path, the value of each attribute, the probability of that
    value, and the reason where an image has no embedding. headstrip refuses embeddings of another
    encoder than the predictors were fitted to. If an image has no embedding, the exit code is 1.
    """
    _check_paths(embeddings, predictors, out)
    from headstrip.attributes.predict import PredictOptions, predict_file
    from headstrip.encoder.predictors_file import load_predictors

    options = PredictOptions(all_classes, threshold, abstain_below)
    report = predict_file(load_predictors(predictors), embeddings, out, options)
    if as_json:
        print_json({"out": str(out), "rows": report.rows, "bad": report.bad})
    else:
        print_line(f"{out}: {report.rows:,} rows, {report.bad:,} of them without an embedding")
    if report.bad:
        context.exit(PARTLY)


def _check_paths(embeddings: Path, predictors: Path, out: Path) -> None:
    """Refuse paths that cannot work, before anything heavy is imported."""
    from headstrip.embed.files import check_out

    for file in (embeddings, predictors):
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
