"""``headstrip list``: list backbones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from headstrip.backbones import list_backbones, matches
from headstrip.cli.backbone import open_registry, spec_as_json
from headstrip.cli.failures import PARTLY
from headstrip.cli.output import Column, json_option, print_json, print_table, short_count, warn
from headstrip.registry.catalog import format_shape
from headstrip.registry.registry import Registry
from headstrip.registry.suggestions import nothing_listed
from headstrip.spec import LAWS, SIZES, BackboneSpec

_COLUMNS = (
    Column("name"),
    Column("family"),
    Column("dim", is_number=True),
    Column("params", is_number=True),
    Column("input"),
    Column("default weights"),
)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def _count(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Parse a number such as ``30M`` or ``30m``."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgb]?)", value.lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a number. Pass one such as 30M or 25557032.")
    return round(float(match[1]) * _UNITS[match[2]])


def _size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Parse an input size: ``224`` for 224x224, ``224x160``, or ``3x224x224``."""
    if value is None:
        return None
    if not re.fullmatch(r"0*[1-9]\d*(x0*[1-9]\d*)*", value):
        raise click.BadParameter(f"{value!r} is not a size. Pass one such as 224 or 3x224x224.")
    shape = tuple(map(int, value.split("x")))
    return shape * 2 if len(shape) == 1 else shape


_EXAMPLES = """\b
Example:
  headstrip list 'timm:vit*' --dim 768 --max-params 100M
"""


@click.command(name="list", epilog=_EXAMPLES)
@click.argument("pattern", required=False)
@click.option(
    "--source", metavar="NAME", help="Show only backbones of this source, such as torchvision."
)
@click.option(
    "--family", metavar="NAME", help="Show only backbones of this family, such as resnet."
)
@click.option(
    "--task",
    type=click.Choice(["image", "video"]),
    help="Show only backbones for images, or only for video clips.",
)
@click.option(
    "--dim", type=int, metavar="N", help="Show only backbones with embeddings of N numbers."
)
@click.option(
    "--law",
    type=click.Choice(LAWS),
    help="Show only backbones with this head fidelity: whether encoder.head gives the untouched "
    "network's logits bit for bit (exact), up to rounding, or not.",
)
@click.option(
    "--sizes",
    type=click.Choice(SIZES),
    help="Show only backbones that accept these sizes of images in --img-size: any, multiples of a "
    "number of pixels, such multiples with equal sides (square), or only their own (fixed).",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    metavar="N",
    help="Show only backbones that have a feature map with N pixels between two cells, such as 8.",
)
@click.option(
    "--max-channels",
    type=click.IntRange(1),
    metavar="N",
    help="Show only backbones whose feature maps have at most N channels, such as 512; with "
    "--stride, the last map of this stride.",
)
@click.option(
    "--license",
    metavar="NAME",
    help="Show only backbones with weights under this licence, such as apache-2.0.",
)
@click.option(
    "--max-params",
    callback=_count,
    metavar="NUMBER",
    help="Show only backbones with at most this many parameters, such as 30M.",
)
@click.option(
    "--input",
    "input_size",
    callback=_size,
    metavar="SIZE",
    help="Show only backbones whose default input has this size, such as 224 or 3x224x224.",
)
@json_option
@click.pass_context
def command(context: click.Context, /, pattern: str | None, as_json: bool, **wanted: Any) -> None:
    """List backbones.

    PATTERN is a shell pattern for their names, such as 'vit*' or 'timm:*'. In a pipe, the
    command prints one line per backbone and no heading.
    """
    registry = open_registry(context)
    specs = list_backbones(pattern, **wanted)
    if as_json:
        print_json([spec_as_json(spec) for spec in specs])
    elif specs:
        print_table(_COLUMNS, [_cells(registry.short_name(spec), spec) for spec in specs])
    if not specs:
        warn(_no_match(registry, pattern, wanted))
        context.exit(PARTLY)


def _cells(name: str, spec: BackboneSpec) -> list[str]:
    return [
        name,
        spec.family,
        str(spec.dim),
        short_count(spec.params),
        format_shape(spec.input_shape),
        spec.default_weights or "-",
    ]


def _no_match(registry: Registry, pattern: str | None, wanted: Mapping[str, Any]) -> str:
    """Explain why no backbone matches, and suggest a wider pattern."""
    specs = registry.specs()
    source = (pattern or "").partition(":")[0] if wanted["source"] is None else wanted["source"]
    if not any(spec.source == source for spec in specs):
        reason = nothing_listed(source, registry.records())
        if reason:
            return f"The source {source!r} lists no backbones: {reason}."
    if pattern is None or any(matches(spec, pattern) for spec in specs):
        given = sum(value is not None for value in (pattern, *wanted.values()))
        if given == 1:
            return "No backbone matches the option. Run `headstrip list` to see all names."
        return "No backbone matches all options together. Leave one of them out."
    wider = f"*{pattern.strip('*')}*"
    count = sum(matches(spec, wider) for spec in specs)
    hint = f"{wider!r} matches {count}" if count else "Run `headstrip list` to see all names"
    return f"No backbone matches {pattern!r}. {hint}."
