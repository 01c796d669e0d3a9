"""Options and helpers for commands that take a backbone: names, weights, and the encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.failures import UsageFailure
from headstrip.cli.group import plugin_commands
from headstrip.cli.output import plugins_on_stderr
from headstrip.errors import HeadstripError, WeightsError
from headstrip.plugins.records import is_strict
from headstrip.registry.registry import Registry, get_registry, use_registry
from headstrip.spec import BackboneSpec, is_folder

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

INPUT_OPTIONS = ("in_chans", "new_channels", "mean", "std", "img_size")
"""The options of ``backbone_option`` that set the input of the encoder."""

_ALLOW_HTTP = "HEADSTRIP_ALLOW_HTTP"


def open_registry(context: click.Context) -> Registry:
    """Return the registry without the plugins that ``--no-plugin`` names.

    Raises:
        UsageFailure: ``--no-plugin`` names a plugin, command or engine that is not installed.
        PluginError: A plugin is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
    """
    root = context.find_root()
    names: Sequence[str] = root.params.get("no_plugin") or ()
    if not (names or is_strict()):
        return get_registry()
    commands = plugin_commands(context)
    registry = Registry(disabled=names) if names else get_registry()
    for command in commands.values():
        registry.refuse_if_strict(command.record)
    if not names:
        return registry
    from headstrip.embed.engines.registry import plugin_engine_names

    known = {record.name for record in registry.records()}
    known |= {"*", *commands, *plugin_engine_names()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageFailure(
            f"--no-plugin {unknown[0]!r}: no such plugin is installed. "
            "Run `headstrip doctor` to list the installed plugins and engines."
        )
    use_registry(registry)
    root.call_on_close(lambda: use_registry(None))
    return registry


def spec_as_json(spec: BackboneSpec) -> dict[str, Any]:
    """Return the catalog's row of a backbone as plain JSON values."""
    return {
        "name": spec.name,
        "source": spec.source,
        "qualified_name": spec.qualified_name,
        "family": spec.family,
        "plugin": spec.plugin,
        "task": spec.task,
        "input_shape": spec.input_shape,
        "dim": spec.dim,
        "params": spec.params,
        "law": spec.law,
        "default_weights": spec.default_weights,
        "options": dict(spec.options),
        "sizes": spec.sizes,
        "channels": spec.channels,
        "strides": spec.strides,
    }


def complete_backbone(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a backbone's name for the shell, or the weights tag after a dot."""
    try:
        registry = open_registry(context)
        with plugins_on_stderr():
            found = _completions(registry, incomplete)
    except (HeadstripError, UsageFailure):
        # A shell cannot show an error message while it completes a word.
        return []
    # The shell reads one name per line and prints it: leave out names with control characters.
    return [name for name in found if name.isprintable()]


def _completions(registry: Registry, incomplete: str) -> list[str]:
    specs = registry.specs()
    qualified = [spec.qualified_name for spec in specs] if ":" in incomplete else []
    names = dict.fromkeys([*map(registry.short_name, specs), *qualified])
    found = [name for name in names if name.startswith(incomplete)]
    name, dot, tag = incomplete.rpartition(".")
    if found or not dot:
        return found
    spec, _ = registry.resolve(name)
    tags = [entry.tag for entry in registry.weights(spec)]
    return [f"{name}.{other}" for other in tags if other.startswith(tag)]


def backbone_option(function: Any, *, required: bool = True) -> Any:
    """Add ``-b NAME`` and the options that decide how to build it to a command."""
    weights = click.option(
        "--weights",
        default="DEFAULT",
        metavar="TAG|PATH",
        help="Use these weights: a tag such as IMAGENET1K_V1, or your own file such as mine.pth. "
        "TAG=PATH loads your file and uses the preprocessing of TAG.  [default: the backbone's "
        "default weights]",
    )
    name = click.option(
        "-b",
        "--backbone",
        "name",
        required=required,
        metavar="NAME",
        shell_complete=complete_backbone,
        help="Use this backbone: a name from `headstrip list`, such as resnet50 or "
        "timm:vit_base_patch16_224, a folder that encoder.save wrote, such as cells/, or a JSON "
        "file with an encoder's manifest.",
    )
    versions = click.option(
        "--allow-versions",
        is_flag=True,
        help="Accept library versions other than those in the folder or the manifest.",
    )
    return name(weights(weights_key_option(_input_options(versions(allow_http_option(function))))))


def _input_options(function: Any) -> Any:
    """Add the options of ``INPUT_OPTIONS`` to a command."""
    channels = click.option(
        "--in-chans",
        metavar="NUMBER|NAMES",
        callback=_parse_channels,
        help="Take images of these channels: 1 for grey, a name for each, such as R,G,B,N, or "
        "another number with its mean and std. Red, green and blue (R, G, B) keep their filters.  "
        "[default: the channels of the weights]",
    )
    new = click.option(
        "--new-channels",
        type=click.Choice(["mean", "zero"]),
        default="mean",
        show_default=True,
        help="Give other channels of --in-chans the mean of the filters for red, green and blue, "
        "or zero.",
    )
    size = click.option(
        "--img-size",
        metavar="N|HxW",
        callback=_parse_size,
        help="Resize and crop images to this size in pixels, such as 384, or 360x640 for height "
        "and width.  [default: the size of the weights]",
    )
    mean = click.option(
        "--mean",
        metavar="NUMBERS",
        callback=_parse_numbers,
        help="Subtract these means from the channels of --in-chans, such as 0.5,0.4,0.4,0.2,0.3, "
        "after a division by 255.  [default: the means of the weights]",
    )
    std = click.option(
        "--std",
        metavar="NUMBERS",
        callback=_parse_numbers,
        help="Divide the channels of --in-chans by these standard deviations, such as "
        "0.2,0.2,0.2,0.1,0.1.  [default: the deviations of the weights]",
    )
    return channels(new(mean(std(size(function)))))


def _parse_channels(
    _: click.Context, __: click.Parameter, text: str | None
) -> int | tuple[str, ...] | None:
    """Read a number of channels, or their names."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    return tuple(name.strip() for name in text.split(","))


def _parse_numbers(
    _: click.Context, option: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """Read numbers that commas separate."""
    if text is None:
        return None
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise UsageFailure(
            f"--{option.name} {text!r} is not a list of numbers. Pass one for each channel, such "
            "as 0.5,0.4,0.4,0.2."
        ) from None


def _parse_size(
    _: click.Context, __: click.Parameter, text: str | None
) -> int | tuple[int, int] | None:
    """Read a number of pixels, or height and width."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise UsageFailure(
            f"--img-size {text!r} is not an image size. Pass a number of pixels such as 384, or "
            "height and width such as 360x640."
        )
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def weights_key_option(function: Any) -> Any:
    """Add ``--weights-key`` to a command that takes the user's own weights file."""
    return click.option(
        "--weights-key",
        metavar="KEY",
        help="Use this state dict of your file if several fit the backbone: its path in the file, "
        "or a part of that, such as teacher or model_ema.",
    )(function)


def allow_http_option(function: Any) -> Any:
    """Add ``--allow-http`` to a command that may download weights."""
    return click.option(
        "--allow-http",
        is_flag=True,
        expose_value=False,
        callback=_allow_http,
        help="Do not warn when weights without a known sha256 are downloaded over plain http.",
    )(function)


def _allow_http(context: click.Context, _: click.Parameter, allowed: bool) -> None:
    """Set the environment variable that downloads read, until the command ends."""
    if not allowed:
        return
    before = os.environ.get(_ALLOW_HTTP)
    os.environ[_ALLOW_HTTP] = "1"

    def restore() -> None:
        if before is None:
            os.environ.pop(_ALLOW_HTTP, None)
        else:
            os.environ[_ALLOW_HTTP] = before

    context.call_on_close(restore)


def build_image_encoder(
    context: click.Context,
    name: str,
    weights: str,
    weights_key: str | None,
    allow_versions: bool,
    device: str = "cpu",
    labels: str | None = None,
    maps: Sequence[int] | None = None,
    **inputs: Any,
) -> Encoder:
    """Do every check that needs no torch, and build an image encoder.

    Args:
        context: The command's context.
        name: The value of ``-b``.
        weights: The value of ``--weights``.
        weights_key: The value of ``--weights-key``.
        allow_versions: The value of ``--allow-versions``.
        device: A torch device, or "auto" for a GPU if there is one.
        labels: A file with the names of the classes.
        maps: Numbers of the levels whose feature maps the command reads.
        inputs: The values of ``INPUT_OPTIONS``.

    Raises:
        UsageFailure: The backbone takes clips, or the weights or the device do not exist.
        LevelError: The backbone has no such levels.
        HeadstripError: As ``build_encoder``.
    """
    from headstrip.encoder.map_choice import check_levels
    from headstrip.factory.selection import select_weights

    registry = open_registry(context)
    mean, std = inputs.pop("mean"), inputs.pop("std")
    if (mean or std) and (not mean or not std or inputs["in_chans"] is None):
        raise UsageFailure(
            "--mean, --std and --in-chans belong together. Pass all three, or leave out --mean "
            "and --std."
        )
    if is_folder(name) or name.endswith(".json"):
        if mean:
            what = "folder" if is_folder(name) else "manifest"
            raise UsageFailure(f"The {what} states the mean already. Leave out --mean and --std.")
        return _build(name, weights, weights_key, allow_versions, device, labels, inputs)
    with plugins_on_stderr():
        spec, parts = registry.resolve(name)
        if spec.task == "video":
            raise UsageFailure(
                f"{spec.qualified_name} takes video clips, but this command takes images. "
                "Run `headstrip list --task image` to list backbones for images."
            )
        if maps and spec.channels:
            sizes = list(zip(spec.channels, spec.strides, strict=True))
            check_levels(spec.qualified_name, maps, sizes)
        try:
            selection = select_weights(registry, spec, parts, weights)
        except WeightsError as error:
            raise UsageFailure(str(error)) from error
        path = selection.path
        if path is not None and not path.is_file():
            raise UsageFailure(
                f"There is no weights file {str(path)!r}. Check the path given to --weights."
            )
        if mean:
            from headstrip.factory.inputs import with_statistics

            inputs["preprocessing"] = partial(with_statistics, mean=mean, std=std)
        return _build(name, weights, weights_key, allow_versions, device, labels, inputs)


def _build(
    name: str,
    weights: str,
    weights_key: str | None,
    allow_versions: bool,
    device: str,
    labels: str | None,
    inputs: Mapping[str, Any],
) -> Encoder:
    from headstrip.factory.build import build_encoder

    try:
        # The commands do not use these predictors, and a manifest does not contain their values.
        return build_encoder(
            name,
            weights=weights,
            weights_key=weights_key,
            labels=labels,
            predictors={},
            allow_versions=allow_versions,
            device=torch_device(device),
            **inputs,
        )
    except ValueError as error:
        raise UsageFailure(str(error)) from error


def torch_device(device: str) -> str:
    """Return the name that torch uses for a device."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
