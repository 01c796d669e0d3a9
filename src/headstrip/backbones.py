"""List the backbones of all installed sources, and describe one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

from headstrip.errors import OptionError, WeightsError
from headstrip.plugins.records import PluginRecord
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import LAWS, SIZES, TASKS, BackboneSpec, WeightsEntry
from headstrip.system.arguments import is_count


@dataclass(frozen=True, slots=True)
class Backbone:
    """The description of one backbone.

    Attributes:
        spec: Its name, family, width, parameters and input.
        weights: Its sets of weights, the default first.
        origin: The distribution that contains it, with its version, or ``built-in``.
        default_tag: Tag of its default weights, None if it has no weights.

    Example:
        >>> backbone = get_backbone("resnet50")
        >>> backbone.origin, backbone.default_tag
        ('built-in', 'IMAGENET1K_V2')
    """

    spec: BackboneSpec
    weights: tuple[WeightsEntry, ...]
    origin: str
    default_tag: str | None


def list_backbones(
    pattern: str | None = None,
    *,
    source: str | None = None,
    family: str | None = None,
    task: str | None = None,
    dim: int | None = None,
    law: str | None = None,
    sizes: str | None = None,
    stride: int | None = None,
    max_channels: int | None = None,
    license: str | None = None,
    max_params: float | None = None,
    input_size: int | tuple[int, ...] | None = None,
) -> list[BackboneSpec]:
    """List the backbones of all installed sources, without importing torch or a plugin.

    Args:
        pattern: Shell pattern for the names, such as ``"vit*"`` or ``"timm:*"``; None for all.
        source: Only those of one source, such as ``"torchvision"``.
        family: Only those of one family, such as ``"resnet"``.
        task: Only ``"image"`` or ``"video"``.
        dim: Only those with embeddings of this width.
        law: Only those with this head fidelity: ``"exact"``, ``"rounding"``, ``"declared"`` or
            ``"headless"``.
        sizes: Only those that accept these image sizes: ``"any"``, ``"multiple"``, ``"square"`` or
            ``"fixed"``; see ``BackboneSpec``.
        stride: Only those that have a feature map with this number of pixels between two cells.
        max_channels: Only those whose feature maps have at most this number of channels; with
            ``stride``, the last map of this stride.
        license: Only those with weights whose library states this licence, such as
            ``"apache-2.0"``, in upper or lower case.
        max_params: Only those with at most this number of parameters.
        input_size: Only those whose default input ends in these sizes, such as ``(224, 224)``; one
            number is the height and the width.

    Returns:
        Their specs, sorted by source and name.

    Raises:
        OptionError: An argument has an invalid value, or no backbone has the ``stride``.

    Example:
        >>> [spec.name for spec in list_backbones("torchvision:vit_b*", max_params=90e6)]
        ['vit_b_16', 'vit_b_32']
    """
    registry = get_registry()
    for name, text, example in (
        ("pattern", pattern, "vit*"),
        ("source", source, "torchvision"),
        ("family", family, "resnet"),
        ("license", license, "apache-2.0"),
    ):
        _check_text(name, text, example)
    for name, choice, choices in (
        ("task", task, TASKS),
        ("law", law, LAWS),
        ("sizes", sizes, SIZES),
    ):
        _check_choice(name, choice, choices)
    for name, number in (("dim", dim), ("stride", stride), ("max_channels", max_channels)):
        if number is not None and not is_count(number):
            raise OptionError(f"{name} must be an integer of 1 or more, got {number!r:.60}.")
    _check_max_params(max_params)
    sides = _checked_input_size(input_size)
    if stride is not None:
        _check_stride(stride, registry.specs())
    filters: list[tuple[Any, Callable[[BackboneSpec], bool]]] = [
        (pattern, lambda spec: matches(spec, pattern or "")),
        (source, lambda spec: spec.source == source),
        (family, lambda spec: spec.family == family),
        (task, lambda spec: spec.task == task),
        (dim, lambda spec: spec.dim == dim),
        (law, lambda spec: spec.law == law),
        (sizes, lambda spec: spec.sizes == sizes),
        (stride, lambda spec: stride in spec.strides),
        (max_channels, lambda spec: _most_channels(spec, stride) <= (max_channels or 0)),
        (license, lambda spec: _has_license(registry, spec, (license or "").lower())),
        (max_params, lambda spec: spec.params <= (max_params or 0)),
        (sides, lambda spec: spec.input_shape[-len(sides or ()) :] == sides),
    ]
    asked = [fits for value, fits in filters if value is not None]
    return [spec for spec in registry.specs() if all(fits(spec) for fits in asked)]


def _most_channels(spec: BackboneSpec, stride: int | None) -> float:
    """Return the channels of the last map of a stride, or without one the largest number."""
    if stride is None:
        return max(spec.channels, default=math.inf)
    channels = dict(zip(spec.strides, spec.channels, strict=True))
    return channels.get(stride, math.inf)


def get_backbone(name: str) -> Backbone:
    """Return what ``headstrip show`` prints about a backbone.

    Args:
        name: As for ``build_encoder``. With a tag (``resnet50.IMAGENET1K_V1``) the result has only
            that set of weights.

    Raises:
        UnknownBackboneError: No installed source has it.
        WeightsError: The backbone has no weights with this tag.

    Example:
        >>> found = get_backbone("resnet18")
        >>> found.spec.dim, [entry.tag for entry in found.weights], found.origin
        (512, ['IMAGENET1K_V1'], 'built-in')
    """
    registry = get_registry()
    spec, parts = registry.resolve(name)
    entries = registry.weights(spec)
    default = entries[0].tag if entries else None
    if not (spec.dim and spec.params):
        # A catalog would state the width and the parameters. This backbone is not in a catalog: its
        # plugin described it now, and has imported torch.
        from headstrip.factory.measure import completed

        spec = completed(spec, registry)
    chosen = tuple(entry for entry in entries if parts.tag in (None, entry.tag))
    if parts.tag is not None and not chosen:
        tags = ", ".join(entry.tag for entry in entries)
        advice = f"Choose one of its tags: {tags}." if tags else "It has none."
        raise WeightsError(f"{spec.qualified_name} has no weights {parts.tag!r}. {advice}")
    owner = next(record for record in registry.records() if record.name == spec.plugin)
    return Backbone(spec, chosen, owner.origin, default)


def plugin_records() -> list[PluginRecord]:
    """Return the record of each plugin, built in or installed, without loading any.

    Example:
        >>> [(record.name, record.origin) for record in plugin_records()][0]
        ('alexnet', 'built-in')
    """
    return get_registry().records()


def matches(spec: BackboneSpec, pattern: str) -> bool:
    """Whether a shell pattern matches the bare or the qualified name of a backbone."""
    return fnmatchcase(spec.name, pattern) or fnmatchcase(spec.qualified_name, pattern)


def _has_license(registry: Registry, spec: BackboneSpec, wanted: str) -> bool:
    entries = registry.listed_weights(spec)
    return any((entry.license or "").lower() == wanted for entry in entries)


def _check_text(name: str, value: object, example: str) -> None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise OptionError(f"{name} must be text such as {example!r}, got {value!r:.60}.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not None and not (isinstance(value, str) and value in choices):
        known = ", ".join(map(repr, choices))
        raise OptionError(f"{name} must be one of {known}, got {value!r:.60}.")


def _check_max_params(value: Any) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0):
        raise OptionError(f"max_params must be a number above 0, such as 90e6, got {value!r:.60}.")


def _check_stride(stride: int, specs: Iterable[BackboneSpec]) -> None:
    """Refuse a stride that no backbone has.

    Raises:
        OptionError: No backbone has it. The message lists the strides that exist.
    """
    known = sorted({one for spec in specs for one in spec.strides})
    if known and stride not in known:
        raise OptionError(
            f"No backbone has a feature map with the stride {stride}. Pass one of "
            f"{', '.join(map(str, known))}."
        )


def _checked_input_size(value: Any) -> tuple[int, ...] | None:
    """Return the sizes as a tuple; one number is the height and the width."""
    if value is None:
        return None
    sizes = (value, value) if is_count(value) else value
    if not (isinstance(sizes, (tuple, list)) and sizes and all(map(is_count, sizes))):
        raise OptionError(
            "input_size must be an integer of 1 or more, or a tuple of these such as (224, 160), "
            f"got {value!r:.60}."
        )
    return tuple(sizes)
