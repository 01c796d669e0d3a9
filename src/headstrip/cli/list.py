"""``headstrip list``: which backbones there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import click

from headstrip.catalog import format_shape
from headstrip.cli.backbone import open_registry, spec_as_json
from headstrip.cli.failures import PARTLY
from headstrip.cli.output import Column, json_option, print_json, print_table, short_count, warn
from headstrip.registry import Registry
from headstrip.spec import LAWS, BackboneSpec
from headstrip.suggestions import nothing_listed

_COLUMNS = (
    Column("name"), Column("family"), Column("dim", is_number=True),
    Column("params", is_number=True), Column("input"), Column("default weights"),
)  # fmt: skip
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}

Filter = Callable[[BackboneSpec], bool]


def _count(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read a number such as ``30M``, in any case."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgb]?)", value.lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a number such as 30M or 25557032.")
    return round(float(match[1]) * _UNITS[match[2]])


def _size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Read a size of input: ``224`` for 224x224, ``224x160``, or ``3x224x224``."""
    if value is None:
        return None
    if not re.fullmatch(r"\d+(x\d+)*", value):
        raise click.BadParameter(f"{value!r} is not a size such as 224 or 3x224x224.")
    shape = tuple(map(int, value.split("x")))
    return shape * 2 if len(shape) == 1 else shape


@click.command(name="list")
@click.argument("pattern", required=False)
@click.option("--source", metavar="NAME", help="Only those of one source, such as torchvision.")
@click.option("--family", metavar="NAME", help="Only those of one family, such as resnet.")
@click.option("--task", type=click.Choice(["image", "video"]), help="Only those of one task.")
@click.option("--dim", type=int, help="Only those with embeddings of this width.")
@click.option("--law", type=click.Choice(LAWS), help="Only those whose logits follow so.")
@click.option(
    "--license",
    "licence",
    metavar="NAME",
    help="Only those with weights whose library states this licence, such as apache-2.0.",
)
@click.option(
    "--max-params",
    callback=_count,
    metavar="NUMBER",
    help="Only those with at most so many parameters, such as 30M.",
)
@click.option(
    "--input",
    "size",
    callback=_size,
    metavar="SIZE",
    help="Only those whose default input has this size.",
)
@json_option
@click.pass_context
def command(context: click.Context, /, pattern: str | None, as_json: bool, **wanted: Any) -> None:
    """List backbones.

    PATTERN is a shell pattern over their names, such as 'vit*' or 'timm:*'. In a pipe there is
    one line a backbone and nothing else.
    """
    registry = open_registry(context)
    specs = registry.specs()
    filters = _filters(registry, **wanted)
    chosen = [
        (registry.short_name(spec), spec)
        for spec in specs
        if _matches(spec, pattern) and all(fits(spec) for fits in filters)
    ]
    if as_json:
        print_json([spec_as_json(spec) for _, spec in chosen])
    elif chosen:
        print_table(_COLUMNS, [_cells(name, spec) for name, spec in chosen])
    if not chosen:
        warn(_nothing(registry, pattern, wanted))
        context.exit(PARTLY)


def _matches(spec: BackboneSpec, pattern: str | None) -> bool:
    return pattern is None or (
        fnmatchcase(spec.name, pattern) or fnmatchcase(spec.qualified_name, pattern)
    )


def _filters(
    registry: Registry,
    source: str | None,
    family: str | None,
    task: str | None,
    dim: int | None,
    law: str | None,
    licence: str | None,
    max_params: int | None,
    size: tuple[int, ...] | None,
) -> list[Filter]:
    """Make a function of each option that was given."""
    filters: list[tuple[Any, Filter]] = [
        (source, lambda spec: spec.source == source),
        (family, lambda spec: spec.family == family),
        (task, lambda spec: spec.task == task),
        (dim, lambda spec: spec.dim == dim),
        (law, lambda spec: spec.law == law),
        (licence, lambda spec: _has_licence(registry, spec, (licence or "").lower())),
        (max_params, lambda spec: spec.params <= (max_params or 0)),
        (size, lambda spec: spec.input_shape[-len(size or ()) :] == size),
    ]
    return [function for value, function in filters if value is not None]


def _has_licence(registry: Registry, spec: BackboneSpec, licence: str) -> bool:
    entries = registry.listed_weights(spec)
    return any((entry.license or "").lower() == licence for entry in entries)


def _cells(name: str, spec: BackboneSpec) -> list[str]:
    return [
        name, spec.family, str(spec.dim), short_count(spec.params),
        format_shape(spec.input_shape), spec.default_weights or "-",
    ]  # fmt: skip


def _nothing(registry: Registry, pattern: str | None, wanted: Mapping[str, Any]) -> str:
    """Say that there is nothing, and what a pattern without a wildcard may have meant."""
    specs = registry.specs()
    source = (pattern or "").partition(":")[0] if wanted["source"] is None else wanted["source"]
    if not any(spec.source == source for spec in specs):
        reason = nothing_listed(source, registry.records())
        if reason:
            return f"No backbone of the source {source!r} is listed: {reason}."
    if pattern is None or any(_matches(spec, pattern) for spec in specs):
        given = sum(value is not None for value in (pattern, *wanted.values()))
        if given == 1:
            return "No backbone matches the option. `headstrip list` prints all names."
        return "No backbone matches all the options together. Leave one of them out."
    wider = f"*{pattern.strip('*')}*"
    count = sum(_matches(spec, wider) for spec in specs)
    hint = f"{wider!r} matches {count}" if count else "`headstrip list` prints all names"
    return f"No backbone matches {pattern!r}; {hint}."
