"""``headstrip fit``: fit predictors of attributes to embeddings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.fit_report import print_report
from headstrip.cli.help_sections import SectionedCommand
from headstrip.cli.label_options import keep_nan_strings_option, path_column_option
from headstrip.cli.output import json_option, print_json, warn
from headstrip.cli.page import check_page, pictures_in, root_option, warn_of_missing
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.attributes.fit import FitProgress
    from headstrip.cli.page import ReadPictures
    from headstrip.encoder.predictors_file import FittedPredictors

_SECTIONS = {
    "Labels": (
        "labels",
        "attributes",
        "kinds",
        "path_column",
        "path_prefix",
        "keep_nan_strings",
    ),
    "Parts": ("split_column", "test", "validation", "near_duplicates", "seed"),
    "Fitting": ("method", "class_weight", "strengths"),
    "Output": ("out", "page", "root", "as_json"),
}
_EXAMPLES = """\b
Examples:
  headstrip fit photos.parquet --labels labels.csv -o cells.predictors.safetensors
  headstrip fit photos.parquet --labels labels.csv --attribute colour --kind age=number \\
      -o cells.predictors.safetensors
  headstrip fit birds.parquet --labels birds/ -o birds.predictors.safetensors \\
      --report birds.html --root birds/
  headstrip fit kept.parquet -o cells.predictors.safetensors
"""


@click.command(name="fit", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    metavar="TABLE",
    type=click.Path(path_type=Path),
    help="Read the labels from this .csv, .tsv or .parquet file, which has one row per image, or "
    "from the names of the folders in this folder.  [default: the columns that `headstrip embed "
    "--keep` copied into EMBEDDINGS]",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the predictors to this file, such as cells.predictors.safetensors. headstrip "
    "replaces an existing file.",
)
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="NAME",
    help="Fit this column of TABLE. Repeat the option for several.  [default: every column except "
    "the paths and the parts]",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="NAME=KIND",
    help="Set the kind of an attribute, such as age=number: class (one of several), labels (any "
    "number of them, separated by |) or number.  [default: inferred from the cells]",
)
@path_column_option("TABLE")
@click.option(
    "--path-prefix",
    default="",
    metavar="TEXT",
    help="Remove this text from the start of each path in TABLE, such as photos/.",
)
@keep_nan_strings_option
@click.option(
    "--split-column",
    metavar="NAME",
    help="Read the part of each image (train, validation or test) from this column of TABLE.  "
    "[default: divide the images of each class at random]",
)
@click.option(
    "--test",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Hold out this share of the images to measure on.",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Choose the strength of the penalty on this share of the other images.",
)
@click.option(
    "--near-duplicates",
    is_flag=True,
    help="Put images whose embeddings have a cosine similarity above 0.98 into the same part. "
    "Images with equal bytes or equal embeddings are always in the same part.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed the parts and the intervals with N.",
)
@click.option(
    "--method",
    type=click.Choice(["default", "sgd"]),
    default="default",
    show_default=True,
    help="Choose sgd for embeddings that do not fit in memory: AdamW over mini-batches that are "
    "read from EMBEDDINGS.",
)
@click.option(
    "--class-weight",
    type=click.Choice(["balanced"]),
    help="Give images of rare classes more weight: the inverse of the frequency of the class.",
)
@click.option(
    "--strength",
    "strengths",
    type=float,
    multiple=True,
    metavar="C",
    help="Try this strength; a smaller C is a stronger penalty. Repeat the option for a grid.  "
    "[default: 13 values from 1e-5 to 10]",
)
@click.option(
    "--report",
    "page",
    metavar="PAGE",
    type=click.Path(path_type=Path),
    help="Write an HTML page with the measures, confusion matrices, calibration curves and the "
    "images that are most confidently wrong, such as cells.html.",
)
@root_option("--report")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    embeddings: Path,
    labels: Path | None,
    out: Path,
    attributes: tuple[str, ...],
    kinds: tuple[str, ...],
    class_weight: Any,
    strengths: tuple[float, ...],
    page: Path | None,
    root: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit predictors of attributes to embeddings, and measure them.

    EMBEDDINGS is a file that `headstrip embed` wrote. For each column of TABLE headstrip fits a
    linear predictor: it chooses the strength of the penalty on a validation part, and measures the
    predictor on held-out images. It also prints the measures of two predictors that know nothing
    about the images: one always gives the most frequent class, and one was fitted to shuffled
    labels.

    If headstrip cannot fit a column, for example because it has a single class, it prints why, fits
    the others, and exits with code 1.
    """
    _check_paths(embeddings, labels, out)
    check_page("--report", page, [embeddings, *([labels] if labels else [])])
    chosen = dict(map(_kind, kinds))
    from headstrip.attributes.fit import STRENGTHS, fit_predictors

    read = None if page is None else pictures_in(root)
    fitted = fit_predictors(
        embeddings,
        labels,
        attributes=attributes or None,
        kinds=chosen,
        class_weight=class_weight,
        strengths=strengths or STRENGTHS,
        progress=_show_progress if sys.stderr.isatty() else None,
        **options,
    )
    fitted.save(out)
    missing = 0
    if page is not None and read is not None:
        missing = _write_page(page, fitted, embeddings, read)
    if as_json:
        print_json({"out": str(out), **fitted.report})
    else:
        print_report(fitted.report)
    for name, reason in fitted.report["skipped"].items():
        warn(f"Not fitted: {name}: {reason}.")
    if fitted.report["skipped"] or missing:
        context.exit(PARTLY)


def _write_page(page: Path, fitted: FittedPredictors, embeddings: Path, read: ReadPictures) -> int:
    """Write the page, and return how many of its pictures are missing."""
    from headstrip.attributes.report_page import fit_page
    from headstrip.html.page import write_page

    content, pictures = fit_page(fitted, str(embeddings), read)
    write_page(page, content)
    return warn_of_missing(page, pictures)


def _check_paths(embeddings: Path, labels: Path | None, out: Path) -> None:
    """Refuse paths that cannot work, before slow libraries are imported."""
    from headstrip.embed.files import check_out

    if not embeddings.is_file():
        raise UsageFailure(f"There is no file {str(embeddings)!r}. Check the path.")
    if labels is not None and not labels.exists():
        raise UsageFailure(f"There is no table of labels {str(labels)!r}. Check the path.")
    if not out.name.endswith(".safetensors"):
        raise UsageFailure(
            f"--out {str(out)!r} is not the name of a file of predictors. Pass a name such as "
            "cells.predictors.safetensors."
        )
    try:
        check_out(out)
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error
    _refuse_overwriting(out, [embeddings, *([labels] if labels else [])])


def _refuse_overwriting(out: Path, inputs: Sequence[Path]) -> None:
    for one in inputs:
        if out.exists() and one.exists() and out.samefile(one):
            raise UsageFailure(
                f"--out {str(out)!r} would overwrite an input file. Pass another file name."
            )


def _kind(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name:
        raise UsageFailure(
            f"--kind {text!r} is not a name with a kind. Write it like --kind age=number."
        )
    return name, kind


def _show_progress(progress: FitProgress) -> None:
    warn(f"{progress.done} of {progress.total}: {progress.name}")
