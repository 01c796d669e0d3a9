"""``headstrip compare``: compare backbones on labelled images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import complete_backbone, open_registry, torch_device
from headstrip.cli.compare_report import print_comparison
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.help_sections import SectionedCommand
from headstrip.cli.label_options import keep_nan_strings_option, path_column_option
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, warn
from headstrip.cli.page import check_page

if TYPE_CHECKING:
    from headstrip.compare.embedding import Progress

_SECTIONS = {
    "Backbones": ("names", "preset", "max_params", "licenses", "random"),
    "Labels": ("attributes", "kinds", "path_column", "keep_nan_strings", "near_duplicates"),
    "Running": ("minutes", "work", "seed", "device", "batch_size", "workers"),
    "Output": ("html", "as_json"),
}
_EXAMPLES = """\b
Examples:
  headstrip compare birds -b resnet50 -b convnext_tiny --work birds.compare
  headstrip compare labels.csv --preset small --license apache-2.0,mit --minutes 10
  headstrip compare labels.csv --preset balanced --max-params 30M --attribute colour
"""
_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def _parse_count(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Read a number such as 30M."""
    if text is None:
        return None
    unit = _UNITS.get(text[-1:].upper())
    try:
        number = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise UsageFailure(
            f"--max-params {text!r} is not a number of parameters. Pass one such as 30M."
        )
    return number


def _parse_licenses(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Read names that commas separate."""
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise UsageFailure(f"--license {text!r} has no name. Pass names such as apache-2.0,mit.")
    return names


@click.command(name="compare", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-b",
    "--backbone",
    "names",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_backbone,
    help="Compare this backbone: a name from `headstrip list`, such as resnet50. Repeat the option "
    "for several.",
)
@click.option(
    "--preset",
    type=click.Choice(["small", "balanced", "large"]),
    help="Compare the backbones of this curated list.",
)
@click.option(
    "--max-params",
    metavar="NUMBER",
    callback=_parse_count,
    help="Leave out backbones with more parameters than this, such as 30M.",
)
@click.option(
    "--license",
    "licenses",
    metavar="NAMES",
    callback=_parse_licenses,
    help="Leave out backbones whose weights have another licence than these, such as "
    "apache-2.0,mit.",
)
@click.option(
    "--random",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_backbone,
    help="Add this architecture with random weights as a control. Repeat the option for several.  "
    "[default: the architecture of the best backbone]",
)
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="NAME",
    help="Predict this column of DATA. Repeat the option for several.  [default: every column "
    "except the paths]",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="NAME=KIND",
    help="Set the kind of an attribute, such as age=number: class, labels or number.  "
    "[default: inferred from the cells]",
)
@path_column_option("DATA")
@keep_nan_strings_option
@click.option(
    "--near-duplicates",
    is_flag=True,
    help="Treat images that look the same at 16 x 16 pixels as copies, such as a JPEG that was "
    "saved again. Images with equal bytes or equal pixels are always copies.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Take about N minutes: measure all backbones on few images, and the better half of them "
    "on twice as many, until the time is up.  [default: measure all on all images]",
)
@click.option(
    "--work",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the embeddings in this folder. The same command continues there after an "
    "interruption, and computes only what is missing.  [default: remove them at the end]",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed the folds, the intervals and the controls with N.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    default="auto",
    show_default=True,
    help="Run the networks on this device, such as cpu or cuda:1. auto uses a GPU when there is "
    "one.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send N images through a network at once.  [default: 16 on a CPU, 128 on other devices]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Decode images in N processes. 0 decodes in this process.  [default: one per core]",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write a page with a chart of quality and speed, tables, and the photographs that "
    "the recommended backbone confuses, such as comparison.html.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    data: Path,
    names: tuple[str, ...],
    random: tuple[str, ...],
    attributes: tuple[str, ...],
    kinds: tuple[str, ...],
    device: str,
    batch_size: int | None,
    workers: int | None,
    html: Path | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Compare backbones on your labelled images, and recommend one.

    DATA is a folder with one folder of images per class, or a list (.csv, .tsv or .parquet) with
    a column of paths and columns of labels.

    For every backbone headstrip fits a linear probe on the same five folds, and predicts the labels
    of images that the probe was not fitted to. Then it prints which backbone is best, which ones
    cannot be distinguished from it on these images, and which one of them is cheapest.

    If a backbone cannot be used, headstrip prints the reason, compares the others, and exits with
    code 1.
    """
    if not data.exists():
        raise UsageFailure(f"There is no folder or list {str(data)!r}. Check the path.")
    chosen = dict(map(_kind, kinds))
    check_page("--html", html, [data])
    open_registry(context)

    from headstrip.compare.compare import compare_backbones
    from headstrip.embed.settings import EmbedOptions, EmbedSettings
    from headstrip.system.allocator import keep_freed_memory

    keep_freed_memory()
    with plugins_on_stderr():
        found = compare_backbones(
            data,
            names,
            random=random or None,
            attributes=attributes or None,
            kinds=chosen,
            device=torch_device(device),
            settings=EmbedSettings(batch_size=batch_size),
            options=EmbedOptions(workers=workers),
            progress=_progress() if sys.stderr.isatty() else None,
            **others,
        )
    if html is not None:
        from headstrip.compare.page import write_comparison

        for path, reason in write_comparison(html, found).items():
            warn(f"No picture of {path}: {reason}")
    if as_json:
        print_json(found.to_json())
    else:
        print_comparison(found)
    if any(one.status == "failed" for one in found.backbones) or found.bad_images or found.skipped:
        context.exit(PARTLY)


def _kind(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name:
        raise UsageFailure(
            f"--kind {text!r} is not a name with a kind. Write it like --kind age=number."
        )
    return name, kind


def _progress() -> Progress:
    """Return a function that prints a line for each tenth of the images of an encoder."""
    last: dict[str, int] = {}

    def show(name: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if last.get(name) != tenth:
            last[name] = tenth
            warn(f"{name}: {done:,} of {total:,} images")

    return show
