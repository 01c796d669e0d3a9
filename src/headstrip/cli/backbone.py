"""The backbone that a command is about: its name, its weights, and the encoder made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.failures import UsageFailure
from headstrip.cli.group import plugin_commands
from headstrip.cli.output import plugins_on_stderr
from headstrip.errors import HeadstripError, WeightsError
from headstrip.plugins.records import is_strict
from headstrip.registry.registry import Registry, get_registry, use_registry
from headstrip.spec import BackboneSpec

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_ALLOW_HTTP = "HEADSTRIP_ALLOW_HTTP"


def open_registry(context: click.Context) -> Registry:
    """Return the registry, without the plugins that ``--no-plugin`` names.

    Raises:
        UsageFailure: There is no plugin or command of such a name.
        PluginError: One is unusable and ``HEADSTRIP_STRICT_PLUGINS=1`` is set.
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
    known = {record.name for record in registry.records()} | {"*", *commands}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageFailure(
            f"--no-plugin names {unknown[0]!r}, and there is no such plugin. "
            "`headstrip plugins` lists all of them."
        )
    use_registry(registry)
    root.call_on_close(lambda: use_registry(None))
    return registry


def spec_as_json(spec: BackboneSpec) -> dict[str, Any]:
    """Return all that a catalog says of a backbone, as plain JSON values."""
    return {
        "name": spec.name, "source": spec.source, "qualified_name": spec.qualified_name,
        "family": spec.family, "plugin": spec.plugin, "task": spec.task,
        "input_shape": spec.input_shape, "dim": spec.dim, "params": spec.params, "law": spec.law,
        "default_weights": spec.default_weights, "options": dict(spec.options),
    }  # fmt: skip


def complete_backbone(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a backbone's name for a shell, or the tag of its weights after a dot."""
    try:
        registry = open_registry(context)
        with plugins_on_stderr():
            found = _completions(registry, incomplete)
    except (HeadstripError, UsageFailure):
        # A shell that completes has no place for a message.
        return []
    # A shell takes every line for one name, and a terminal shows it.
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


def backbone_option(function: Any) -> Any:
    """Add ``-b NAME``, ``--weights``, ``--allow-versions`` and ``--allow-http`` to a command."""
    weights = click.option(
        "--weights",
        default="DEFAULT",
        metavar="TAG|PATH",
        help="Tag of the weights, or a file of your own (TAG=PATH says whose preprocessing it "
        "has).  [default: the backbone's first]",
    )
    name = click.option(
        "-b",
        "--backbone",
        "name",
        required=True,
        metavar="NAME",
        shell_complete=complete_backbone,
        help="Backbone, as `headstrip list` names it, or a JSON file with an encoder's manifest.",
    )
    versions = click.option(
        "--allow-versions",
        is_flag=True,
        help="Have other versions of libraries compute than a manifest names.",
    )
    return name(weights(versions(allow_http_option(function))))


def allow_http_option(function: Any) -> Any:
    """Add ``--allow-http`` to a command that may download weights."""
    return click.option(
        "--allow-http",
        is_flag=True,
        expose_value=False,
        callback=_allow_http,
        help="Download weights over plain http without a warning, where no sha256 is known.",
    )(function)


def _allow_http(context: click.Context, _: click.Parameter, allowed: bool) -> None:
    """Set the environment variable that the download reads, for as long as the command runs."""
    if not allowed:
        return
    before = os.environ.get(_ALLOW_HTTP)
    os.environ[_ALLOW_HTTP] = "1"

    def put_back() -> None:
        if before is None:
            os.environ.pop(_ALLOW_HTTP, None)
        else:
            os.environ[_ALLOW_HTTP] = before

    context.call_on_close(put_back)


def build_image_encoder(
    context: click.Context, name: str, weights: str, allow_versions: bool, device: str = "cpu"
) -> Encoder:
    """Build an encoder of images, after everything that can be told without torch.

    Args:
        context: Of the command.
        name: What ``-b`` said.
        weights: What ``--weights`` said.
        allow_versions: What ``--allow-versions`` said.
        device: Where it goes, "auto" for a GPU where there is one.

    Raises:
        UsageFailure: It takes clips, or there are no such weights, or no such device.
        HeadstripError: What ``build_encoder`` raises.
    """
    from headstrip.factory.selection import select_weights

    registry = open_registry(context)
    if name.endswith(".json"):
        return _build(name, weights, allow_versions, device)
    with plugins_on_stderr():
        spec, parts = registry.resolve(name)
        if spec.task == "video":
            raise UsageFailure(
                f"{spec.qualified_name} takes clips, and this command takes images. "
                "`headstrip list --task image` lists those that do."
            )
        try:
            path = select_weights(registry, spec, parts, weights).path
        except WeightsError as error:
            raise UsageFailure(str(error)) from error
        if path is not None and not path.is_file():
            raise UsageFailure(f"There is no weights file {str(path)!r}. Check the path.")

        return _build(name, weights, allow_versions, device)


def _build(name: str, weights: str, allow_versions: bool, device: str) -> Encoder:
    from headstrip.factory.build import build_encoder

    try:
        # No command uses predictors, and a manifest of trained ones has no values of theirs.
        return build_encoder(
            name,
            weights=weights,
            predictors={},
            allow_versions=allow_versions,
            device=_place(device),
        )
    except ValueError as error:
        raise UsageFailure(str(error)) from error


def _place(device: str) -> str:
    """Return a device's name as torch has it."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
