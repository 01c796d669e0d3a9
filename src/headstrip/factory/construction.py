"""Build a network from a name, load its weights, and take its head off."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from headstrip.errors import OptionError, WeightsError, WeightsWarning
from headstrip.factory.image_sizes import check_size, sized_options
from headstrip.factory.inputs import ChannelPlan, InputRequest, plan_channels
from headstrip.factory.instantiate import Builder, BuildOptions, Filled, Mechanism
from headstrip.factory.maker import NetworkMaker
from headstrip.factory.nearest import with_advice
from headstrip.factory.selection import Selection, WeightsArgument, select_weights
from headstrip.network.channels import Widening
from headstrip.network.head import Stripped
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry, effective_shape, merged_options
from headstrip.system.arguments import type_of
from headstrip.weights.mapping import Guard

_LOGGER = logging.getLogger("headstrip.factory")
_DEFAULTS = BuildOptions()
_NO_INPUTS = InputRequest()
_NONE = object()
RESERVED_OPTIONS = {
    "num_classes": "predictors={'name': classes} for your own classes",
    "weights": "weights= to build_encoder itself",
    "pretrained": "weights= to build_encoder itself",
    # timm's own option: timm would read the file, and headstrip could not check it.
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
        mechanism: How it was built: ``assigned`` if the file's tensors became the parameters,
            ``ordinary`` if all parameters were initialised first.
        guards: They detect that a mapped weights file is rewritten in place.
        describes_weights: Whether the user's own file describes its weights.
        widening: How the first convolution was changed, None if it was not.
        has_new_filters: Whether that made filters which the weights do not have.
        is_folded: Whether the preprocessing, not the network, changes the statistics of the input.
        weights_key: The path of the state dict in the user's own file, None for published weights.
    """

    stripped: Stripped
    spec: BackboneSpec
    selection: Selection
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    sha256: str | None
    mechanism: Mechanism = "ordinary"
    guards: tuple[Guard, ...] = ()
    describes_weights: bool = False
    widening: Widening | None = None
    has_new_filters: bool = False
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
    """Build a network, load its weights, and take its head off; see ``build_encoder``."""
    _check_options(options)
    registry = get_registry()
    spec, parts = registry.resolve(name)
    check_size(spec, options or {})
    selection = select_weights(registry, spec, parts, weights)
    _check_key(weights_key, selection, weights)
    owner = registry.owner(spec)
    options = sized_options(owner, spec, selection.entry, options or {}, inputs.img_size)
    planned = plan_channels(owner, spec, selection, options, inputs)
    maker = NetworkMaker(
        owner,
        registry.stripper(spec.family),
        spec,
        selection.entry,
        planned.widening,
        is_resized=inputs.img_size is not None,
    )
    builder = Builder(maker, selection, build_options, planned.options, weights_key)
    # Tensors that are created in inference mode cannot be trained.
    with torch.inference_mode(False):
        try:
            filled, merged = _build(builder)
        except WeightsError as error:
            trained = _plan_for_one_channel(builder, options, inputs)
            if trained is None:
                raise _advised(error, builder) from error
            of_one = builder.with_channels(trained.options, trained.widening)
            try:
                filled, merged = _build(of_one)
            except WeightsError as other:
                # No unfit candidate means that several fit, which the second error says.
                raise (_advised(error, builder) if of_one.matcher.unfit else other) from error
            builder, planned = of_one, trained
        else:
            if filled.has_others and weights_key is None:
                _refuse_other_channels(builder, _plan_for_one_channel(builder, options, inputs))
    options, widening = planned.options, planned.widening
    stripped, file = filled.stripped, filled.file
    if (stated := builder.source.stated) is not None:
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
        describes_weights=stated is not None,
        widening=widening,
        has_new_filters=filled.has_new_filters,
        is_folded=planned.is_folded,
        weights_key=builder.matcher.chosen_key,
    )


def _advised(error: WeightsError, builder: Builder) -> WeightsError:
    """Return an error with better advice if there is some, else the same error."""
    return with_advice(error, builder.matcher.unfit, builder.maker.spec) or error


def _plan_for_one_channel(
    builder: Builder, options: Mapping[str, Any], inputs: InputRequest
) -> ChannelPlan | None:
    """Return the change to a network for a file that was trained with grey images.

    The result is None if the user did not ask for grey, or the network cannot be changed.
    """
    if inputs.in_chans != 1 or builder.selection.path is None or not builder.source.has_read:
        return None
    try:
        plan = plan_channels(
            builder.maker.owner,
            builder.maker.spec,
            builder.selection,
            options,
            inputs,
            is_trained=True,
        )
    except OptionError:
        return None
    return plan if plan.widening is not None else None


def _refuse_other_channels(builder: Builder, plan: ChannelPlan | None) -> None:
    """Refuse a file in which a state dict for RGB and another one for grey fit.

    Raises:
        WeightsError: The file has both.
    """
    if plan is None:
        return
    other = builder.with_channels(plan.options, plan.widening)
    try:
        _build(other)
    except WeightsError:
        return
    rgb, grey = builder.matcher.chosen_key, other.matcher.chosen_key
    raise WeightsError(
        f"{builder.selection.path} holds two state dicts that fit {builder.maker.about}: {rgb!r} "
        f"was trained with 3 channels, and {grey!r} with 1. headstrip does not guess which one you "
        f"mean. Pass the one that you mean, such as weights_key={grey!r} (--weights-key {grey})."
    )


def _build(builder: Builder) -> tuple[Filled, dict[str, Any]]:
    """Build with the options that the weights need, and return these options too.

    If the user named no tag, the file may have been trained without the options of the default
    weights. headstrip builds the network without them first. If the file does not fit that, its
    shapes may need the options, so headstrip builds the network with them.
    """
    spec, selection = builder.maker.spec, builder.selection
    entry = selection.entry
    every = merged_options(spec, entry, builder.given)
    if selection.is_named or entry is None:
        return builder.build(every), every
    # An option whose value is the tag only says which set of weights it is.
    kept = tuple((key, value) for key, value in entry.options if value == entry.tag)
    fewer = merged_options(spec, replace(entry, options=kept), builder.given)
    if fewer == every:
        return builder.build(every), every
    try:
        built = builder.build(fewer)
    except WeightsError:
        # A second build helps only if the file was read and does not state its options.
        if not builder.source.has_read or builder.source.stated is not None:
            raise
        built = builder.build(every)
        _LOGGER.info(
            "%s fits %s with the options of its weights %s alone: %s",
            selection.path,
            builder.maker.about,
            entry.tag,
            dict(entry.options),
        )
        return built, every
    if builder.source.stated is None:
        left = {key: value for key, value in every.items() if fewer.get(key, _NONE) != value}
        _warn_of_options(builder, left, {key: fewer[key] for key in left if key in fewer})
    return built, fewer


def _warn_of_options(builder: Builder, left: Mapping[str, Any], instead: Mapping[str, Any]) -> None:
    """Warn about options that were left out and that may change the embeddings.

    Args:
        builder: The builder of the network.
        left: The options of the default weights that were left out.
        instead: The values that the network was built with instead, if they are known.
    """
    path, entry = builder.selection.path, builder.selection.entry
    assert entry is not None
    shown = ", ".join(f"{key}={value!r}" for key, value in left.items())
    used = ", ".join(f"{key}={value!r}" for key, value in instead.items()) or "its own defaults"
    warnings.warn(
        f"{path} does not say whether its network was trained with {shown}, as the weights "
        f"{entry.tag!r} of {builder.maker.about} were. headstrip builds it with {used}. If that is "
        f"wrong, pass weights='{entry.tag}={path}'; if it is right, pass options={instead or left} "
        "with your own values, and this warning does not come again.",
        WeightsWarning,
        # The line that calls build_encoder.
        stacklevel=6,
    )


def _with_own_classes(stated: WeightsEntry, stripped: Stripped) -> WeightsEntry:
    """Return a description of a file, with the number of classes of the file's own head.

    A checkpoint may keep the configuration of the network from which its training started.
    """
    found = getattr(stripped.head, "out_features", None)
    if stated.num_classes is None or found in (None, stated.num_classes):
        return stated
    return replace(stated, num_classes=found, labels=None, class_names=())


def completed(stated: WeightsEntry, default: WeightsEntry | None) -> WeightsEntry:
    """Return the description that a file states, completed from the default weights."""
    if default is None:
        return stated
    return replace(
        stated,
        input_shape=stated.input_shape or default.input_shape,
        preprocessing=stated.preprocessing or default.preprocessing,
    )


def _check_key(key: object, selection: Selection, weights: object) -> None:
    """Refuse a ``weights_key`` if the weights are not the user's own file."""
    if key is None:
        return
    if not isinstance(key, str):
        raise ValueError(
            f"weights_key={key!r:.100} is {type_of(key)}. Pass the path of a state dict in "
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
            f"options={options!r} is {type_of(options)}. "
            "Pass a mapping of constructor arguments, such as {'image_size': 384}."
        )
    for name, instead in RESERVED_OPTIONS.items():
        if name in (options or {}):
            raise ValueError(
                f"options has {name}={dict(options or {})[name]!r}, which headstrip sets itself. "
                f"Pass {instead}."
            )
