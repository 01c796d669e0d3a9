"""``headstrip show``: print what headstrip knows about one backbone."""

from __future__ import annotations

from typing import Any

import click

from headstrip.backbones import Backbone, get_backbone
from headstrip.cli.backbone import complete_backbone, open_registry, spec_as_json
from headstrip.cli.facts import Fact, in_words, print_facts
from headstrip.cli.failures import UsageFailure
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line
from headstrip.cli.show_folder import few, print_measures, show_folder
from headstrip.errors import WeightsError
from headstrip.registry.catalog import format_shape
from headstrip.spec import BackboneSpec, WeightsEntry, is_folder

_FILE_SIZE = "file size (MB)"
_UNVERIFIED = "slow, unverified (the plugin loads these weights itself)"


@click.command(name="show")
@click.argument("name", shell_complete=complete_backbone)
@json_option
@click.pass_context
def command(context: click.Context, name: str, as_json: bool) -> None:
    """Print what headstrip knows about one backbone.

    NAME is a name that `headstrip list` prints, a file that `headstrip fit` wrote, or a folder that
    encoder.save wrote, such as cells/.

    For a name, the command prints the width, parameters, family and owner, and for each set of
    weights the input, the preprocessing, the classes, and the accuracy, cost and licence that the
    library states. With a tag in the name (resnet50.IMAGENET1K_V1) it prints only that set of
    weights. For a file of predictors, it prints the encoder, the attributes and the measures; for a
    folder, its content.
    """
    if name.endswith(".safetensors"):
        _show_predictors(name, as_json)
        return
    if is_folder(name):
        show_folder(name, as_json)
        return
    open_registry(context)
    with plugins_on_stderr():
        try:
            found = get_backbone(name)
        except WeightsError as error:
            raise UsageFailure(str(error)) from error
    spec, default = found.spec, found.default_tag
    if as_json:
        weights = [_entry_as_json(entry, entry.tag == default) for entry in found.weights]
        print_json({**spec_as_json(spec), "origin": found.origin, "weights": weights})
        return
    print_facts(spec.qualified_name, _spec_facts(found))
    for entry in found.weights:
        print_line("")
        print_facts(entry.tag + (" (default)" if entry.tag == default else ""), _entry_facts(entry))
    if not found.weights:
        print_line("")
        print_line("No pretrained weights.")


def _show_predictors(path: str, as_json: bool) -> None:
    from headstrip.encoder.predictors_file import load_predictors

    fitted = load_predictors(path)
    attributes = [one.to_json() for one in fitted.attributes]
    if as_json:
        print_json(
            {
                "attributes": attributes,
                "encoder": dict(fitted.encoder),
                "report": dict(fitted.report),
            }
        )
        return
    name = fitted.encoder.get("name", "unknown")
    print_facts(path, [("encoder", str(name)), ("width", str(fitted.dim))])
    for one in fitted.attributes:
        print_line(f"  {one.name} ({one.kind}){few(': ', one.classes)}")
    print_line("")
    print_measures(repr(path), list(fitted.attributes), fitted.report)


def _spec_facts(found: Backbone) -> list[Fact]:
    spec = found.spec
    options = [("options", _pairs(dict(spec.options)))] if spec.options else []
    return [
        ("width", str(spec.dim)),
        ("parameters", f"{spec.params:,}"),
        ("law", spec.law),
        ("family", spec.family),
        ("owner", f"{spec.plugin} ({found.origin})"),
        ("task", spec.task),
        ("input", format_shape(spec.input_shape)),
        *([("sizes", spec.sizes)] if spec.sizes else []),
        *([("maps", _maps(spec))] if spec.channels else []),
        *options,
    ]


def _maps(spec: BackboneSpec) -> str:
    """List the channels of each feature map and its stride."""
    maps = list(zip(spec.channels, spec.strides, strict=True))
    if len(maps) > 1 and len(set(maps)) == 1:
        return f"{len(maps)} of {maps[0][0]} channels at stride {maps[0][1]}"
    return ", ".join(f"{channels} at stride {stride}" for channels, stride in maps)


def _entry_facts(entry: WeightsEntry) -> list[Fact]:
    metrics = dict(entry.metrics)
    size = metrics.pop(_FILE_SIZE, None)
    options = [("options", _pairs(dict(entry.options)))] if entry.options else []
    stated = [
        (key, f"{value:g}" if isinstance(value, float) else str(value))
        for key, value in metrics.items()
    ]
    return [
        ("input", format_shape(entry.input_shape) if entry.input_shape else "not stated"),
        ("preprocessing", in_words(entry.preprocessing) if entry.preprocessing else "not stated"),
        ("classes", _classes(entry)),
        *options,
        *stated,
        ("file size", f"{size:g} MB" if size else "not stated"),
        ("licence", entry.license or "not stated"),
        ("location", ", ".join(entry.locations) or _UNVERIFIED),
    ]


def _classes(entry: WeightsEntry) -> str:
    if entry.num_classes is None:
        return "none"
    return f"{entry.num_classes} ({entry.labels})" if entry.labels else str(entry.num_classes)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())


def _entry_as_json(entry: WeightsEntry, is_default: bool) -> dict[str, Any]:
    return {
        "tag": entry.tag,
        "is_default": is_default,
        "input_shape": entry.input_shape,
        "num_classes": entry.num_classes,
        "labels": entry.labels,
        "options": dict(entry.options),
        "preprocessing": entry.preprocessing.to_json() if entry.preprocessing else None,
        "license": entry.license,
        "metrics": dict(entry.metrics),
        "sha256": entry.sha256 or None,
        "locations": entry.locations,
        "is_verified": bool(entry.locations),
    }
