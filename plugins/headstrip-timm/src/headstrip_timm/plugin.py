"""The hooks of the plugin. timm builds networks, headstrip finds, verifies and reads weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

import timm
from timm.models import get_deprecated_models
from torch import Tensor, nn

from headstrip import (
    BackboneSpec,
    PluginError,
    Stripped,
    UnknownBackboneError,
    WeightsEntry,
    hookimpl,
)
from headstrip.plugin_api import measure
from headstrip_timm import heads
from headstrip_timm.describe import describe_config, describe_weights, has_tag, unmeasured_spec
from headstrip_timm.loading import adapted
from headstrip_timm.maps import IntermediateMaps

API_VERSION = 1
FAMILIES = heads.FAMILIES
INPUT_OPTIONS = {"in_chans": "in_chans", "img_size": "img_size"}

_options: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
"""Options of the networks built here, because timm does not store them."""


@hookimpl
def build_model(spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
    """Build a network by name with random weights. ``pretrained_cfg`` is a tag."""
    check_entry_point(spec.name)
    _check_options(options)
    _check_tag(spec.name, options.get("pretrained_cfg"))
    try:
        model: nn.Module = timm.create_model(spec.name, pretrained=False, **options)
    except TypeError as error:
        # The option is unknown, or the architecture's entry point sets it itself.
        if "keyword argument" not in str(error):
            raise
        raise PluginError(
            f"timm {timm.__version__} cannot build {spec.name!r} with the options "
            f"{dict(options)!r} ({error}). Leave out the option that it does not take."
        ) from error
    _options[model] = dict(options)
    return model


@hookimpl
def strip_head(
    model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
) -> Stripped:
    """Remove the head; see ``heads``."""
    built = spec is not None and model in _options
    shape = _input_shape(model, _options[model]) if built else None
    return heads.strip(model, family, built=spec is not None, input_shape=shape)


@hookimpl
def adapt_state_dict(
    loaded: object, model: nn.Module, entry: WeightsEntry | None
) -> dict[str, Tensor]:
    """Return the tensors that timm would load; see ``loading``."""
    return adapted(loaded, model, _options.get(model, {}))


@hookimpl
def describe_file(loaded: object, spec: BackboneSpec) -> WeightsEntry | None:
    """Describe a checkpoint that contains a ``pretrained_cfg`` beside its tensors."""
    stated = loaded.get("pretrained_cfg") if isinstance(loaded, Mapping) else None
    return describe_config(spec.name, stated) if isinstance(stated, Mapping) else None


@hookimpl
def weights(spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
    """Describe timm's sets of weights from its configurations, the default first."""
    return describe_weights(spec.name)


@hookimpl
def find_backbone(name: str) -> BackboneSpec | None:
    """Describe an architecture that is newer than the catalog."""
    if not timm.is_model(name):
        return None
    deprecated = get_deprecated_models()
    if name in deprecated:
        raise UnknownBackboneError(_removed_name_message(name, deprecated[name]))
    check_entry_point(name)
    return measure(unmeasured_spec(name))


@hookimpl
def reference(model: nn.Module, x: Tensor, family: str) -> Tensor:
    """Compute the embedding with timm's pooling; see ``heads``."""
    return heads.reference(model, x)


@hookimpl
def levels(model: nn.Module, family: str, spec: BackboneSpec) -> nn.Module:
    """Return the network with its maps; see ``maps``."""
    return IntermediateMaps(model)


def check_entry_point(name: str) -> None:
    """Refuse a name that this timm lacks, or that another package overwrote in timm's table.

    Raises:
        PluginError: The name is refused.
    """
    if not timm.is_model(name):
        raise PluginError(
            f"timm {timm.__version__} has no architecture {name!r}. "
            "Install a newer one: `pip install --upgrade timm`."
        )
    module = timm.model_entrypoint(name).__module__
    if module.startswith("timm.models."):
        return
    if not hasattr(timm.models, name):
        raise PluginError(
            f"The name {name!r} in timm's table does not belong to timm: the module {module!r} "
            "registered it. Write a plugin for that network; `headstrip new-plugin NAME` creates "
            "one."
        )
    raise PluginError(
        f"The name {name!r} in timm's table was overwritten by the module {module!r}, whose "
        "network is not timm's. Do not import that module before you build timm's networks."
    )


def _removed_name_message(name: str, now: str | None) -> str:
    """Return the message for a name that timm renamed or removed."""
    arch, _, tag = (now or "").partition(".")
    if not now or not timm.is_model(arch):
        return (
            f"timm {timm.__version__} has removed {name!r} without a replacement. Use another "
            "backbone."
        )
    if tag and not has_tag(arch, tag):
        return (
            f"timm {timm.__version__} has renamed {name!r} to {now!r}, but has no such weights. "
            f"Use the architecture 'timm:{arch}' with other weights."
        )
    return f"timm {timm.__version__} has renamed {name!r}. Write 'timm:{now}'."


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that do not give an image encoder.

    Raises:
        PluginError: An option is refused.
    """
    if options.get("features_only"):
        raise PluginError(
            f"features_only={options['features_only']!r} makes timm return a list of feature maps, "
            "but an encoder returns one vector per image. Leave it out."
        )
    channels = options.get("in_chans")
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise PluginError(
            f"in_chans={channels!r} is not a number of channels. Pass an integer above zero."
        )


def _check_tag(name: str, tag: object) -> None:
    """Refuse a tag that this timm does not know.

    Raises:
        PluginError: The tag is unknown.
    """
    if isinstance(tag, str) and tag and not has_tag(name, tag):
        raise PluginError(
            f"timm {timm.__version__} has no weights {tag!r} of {name!r}. "
            "Choose other weights, or install a newer timm: `pip install --upgrade timm`."
        )


def _input_shape(model: nn.Module, options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the input shape of a network from its configuration and its options."""
    channels, *size = cast("Any", model).pretrained_cfg["input_size"]
    # timm builds vitamin_xlarge_336 with the configuration of another, smaller network.
    patches = getattr(model, "patch_embed", None)
    # A network that takes any size has the architecture's size there, not that of its weights.
    own = getattr(patches, "img_size", None) if getattr(patches, "strict_img_size", False) else None
    wanted = options.get("img_size") or own or tuple(size)
    height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
    return (options.get("in_chans") or channels, height, width)
