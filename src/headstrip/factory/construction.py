"""From a name to a network with its weights in and its head off."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from headstrip.errors import WeightsError, WeightsWarning
from headstrip.factory.image_sizes import check_size, sized_options
from headstrip.factory.inputs import InputRequest, plan_channels
from headstrip.factory.instantiate import (
    Builder,
    BuildOptions,
    Filled,
    Mechanism,
)
from headstrip.factory.nearest import with_advice
from headstrip.factory.selection import Selection, WeightsArgument, select_weights
from headstrip.network.channels import Widening
from headstrip.network.head import Stripped
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry, effective_shape, merged_options
from headstrip.weights.mapping import Guard

_LOGGER = logging.getLogger("headstrip.factory")
_DEFAULTS = BuildOptions()
_NO_INPUTS = InputRequest()
_NONE = object()
RESERVED_OPTIONS = {
    "num_classes": "predictors={'name': classes} for your own classes",
    "weights": "weights= to build_encoder itself",
    "pretrained": "weights= to build_encoder itself",
    # timm's: it would read the file past headstrip.
    "checkpoint_path": "weights= to build_encoder itself",
}


@dataclass(frozen=True, slots=True)
class Built:
    """A network without its head, and what it was built from.

    Attributes:
        stripped: Its parts.
        spec: The backbone.
        selection: Its weights.
        options: Constructor arguments of the network.
        input_shape: Input without the batch axis.
        sha256: Hash of the weights file, None without one.
        mechanism: How it was built: ``assigned`` where no parameter had memory before the file's,
            ``ordinary`` where all were initialised.
        guards: What notices that a mapped weights file is rewritten in place.
        states_itself: Whether the user's own file says what its weights are.
        widening: How the first convolution was changed, None where it was not.
        is_folded: Whether the preprocessing changes the statistics of the input for the network.
        weights_key: Where in the user's own file its state dict is, None for published weights.
    """

    stripped: Stripped
    spec: BackboneSpec
    selection: Selection
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    sha256: str | None
    mechanism: Mechanism = "ordinary"
    guards: tuple[Guard, ...] = ()
    states_itself: bool = False
    widening: Widening | None = None
    is_folded: bool = False
    weights_key: str | None = None


def build_stripped(
    name: str,
    *,
    weights: WeightsArgument = "DEFAULT",
    options: Mapping[str, Any] | None = None,
    build_options: BuildOptions = _DEFAULTS,
    inputs: InputRequest = _NO_INPUTS,
    weights_key: str | None = None,
) -> Built:
    """Build a network, put its weights in, and take its head off; see ``build_encoder``."""
    _check_options(options)
    registry = get_registry()
    spec, parts = registry.resolve(name)
    check_size(spec, options or {})
    selection = select_weights(registry, spec, parts, weights)
    _check_key(weights_key, selection, weights)
    owner = registry.owner(spec)
    options = sized_options(owner, spec, selection.entry, options or {}, inputs.img_size)
    planned = plan_channels(owner, spec, selection, options, inputs)
    options, widening = planned.options, planned.widening
    builder = Builder(
        owner,
        registry.stripper(spec.family),
        spec,
        selection,
        build_options,
        options,
        weights_key,
        widening=widening,
        is_resized=inputs.img_size is not None,
    )
    # Tensors made in inference mode could never train.
    with torch.inference_mode(False):
        try:
            filled, merged = _build(builder)
        except WeightsError as error:
            if (better := with_advice(error, builder.unfit, spec)) is not None:
                raise better from error
            raise
    stripped, file = filled.stripped, filled.file
    if (stated := builder.stated) is not None:
        described = completed(_with_own_classes(stated, stripped), selection.entry)
        selection = replace(selection, entry=described)
        merged = merged_options(spec, stated, options)
    channels, *sizes = effective_shape(stripped.input_shape, selection.entry, spec)
    return Built(
        stripped,
        spec,
        selection,
        merged,
        (
            widening.channels if widening else channels,
            *(inputs.img_size or sizes),
        ),
        sha256=file.sha256 if file else None,
        mechanism=filled.mechanism,
        guards=file.guards if file else (),
        states_itself=stated is not None,
        widening=widening,
        is_folded=planned.is_folded,
        weights_key=builder.chosen_key,
    )


def _build(builder: Builder) -> tuple[Filled, dict[str, Any]]:
    """Build with the options that the weights demand, and return those too.

    A file whose user named no tag need not have been trained with the options of the default
    weights. Where it fits the network without them, it is built without; where it does not, they
    may be what its shapes ask for.
    """
    spec, selection = builder.spec, builder.selection
    entry = selection.entry
    every = merged_options(spec, entry, builder.given)
    if selection.is_named or entry is None:
        return builder.build(every), every
    # An option whose value is the tag itself says no more than which set of weights it is.
    kept = tuple((key, value) for key, value in entry.options if value == entry.tag)
    fewer = merged_options(spec, replace(entry, options=kept), builder.given)
    if fewer == every:
        return builder.build(every), every
    try:
        built = builder.build(fewer)
    except WeightsError:
        # What cannot be read would not be read a second time either.
        if not builder.has_read or builder.stated is not None:
            raise
        built = builder.build(every)
        _LOGGER.info(
            "%s fits %s with the options of its weights %s alone: %s",
            selection.path,
            builder.about,
            entry.tag,
            dict(entry.options),
        )
        return built, every
    if builder.stated is None:
        left = {key: value for key, value in every.items() if fewer.get(key, _NONE) != value}
        _warn_of_options(builder, left, {key: fewer[key] for key in left if key in fewer})
    return built, fewer


def _warn_of_options(builder: Builder, left: Mapping[str, Any], instead: Mapping[str, Any]) -> None:
    """Say which options a file was built without that may change its numbers.

    Args:
        builder: What built it.
        left: The options of the default weights that were left out.
        instead: What the network was built with in their place, where that is known.
    """
    path, entry = builder.selection.path, builder.selection.entry
    assert entry is not None
    shown = ", ".join(f"{key}={value!r}" for key, value in left.items())
    used = ", ".join(f"{key}={value!r}" for key, value in instead.items()) or "its own defaults"
    warnings.warn(
        f"{path} does not say whether its network was trained with {shown}, as the weights "
        f"{entry.tag!r} of {builder.about} were. headstrip builds it with {used}. If that is "
        f"wrong, pass weights='{entry.tag}={path}'; if it is right, pass options={instead or left} "
        "with your own values, and this warning does not come again.",
        WeightsWarning,
        # Where build_encoder was called.
        stacklevel=6,
    )


def _with_own_classes(stated: WeightsEntry, stripped: Stripped) -> WeightsEntry:
    """Return a description of a file with the classes of the file's own head.

    A checkpoint may keep the configuration of the network that it was trained from.
    """
    found = getattr(stripped.head, "out_features", None)
    if stated.num_classes is None or found in (None, stated.num_classes):
        return stated
    return replace(stated, num_classes=found, labels=None, class_names=())


def completed(stated: WeightsEntry, default: WeightsEntry | None) -> WeightsEntry:
    """Return what a file states of itself, and of the default weights what it does not state."""
    if default is None:
        return stated
    return replace(
        stated,
        input_shape=stated.input_shape or default.input_shape,
        preprocessing=stated.preprocessing or default.preprocessing,
    )


def _check_key(key: object, selection: Selection, weights: object) -> None:
    """Refuse a key without a file that it could be in."""
    if key is None:
        return
    if not isinstance(key, str):
        raise ValueError(
            f"weights_key={key!r:.100} is a {type(key).__name__}. Pass the path of a state dict in "
            "the file as a string, such as 'teacher'."
        )
    if selection.path is None:
        raise ValueError(
            f"weights_key={key!r} chooses a state dict in your own file, and weights={weights!r} "
            "is not a file. Pass the path of the file as weights, or leave weights_key out."
        )


def _check_options(options: object) -> None:
    """Refuse options that are not a mapping, and those that headstrip sets itself."""
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(
            f"options={options!r} is a {type(options).__name__}. "
            "Pass a mapping of constructor arguments, such as {'image_size': 384}."
        )
    for name, instead in RESERVED_OPTIONS.items():
        if name in (options or {}):
            raise ValueError(
                f"options has {name}={dict(options or {})[name]!r}, which headstrip sets itself. "
                f"Pass {instead}."
            )
