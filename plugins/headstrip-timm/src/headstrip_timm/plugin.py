"""The plugin: timm builds and describes, headstrip finds, verifies and reads the weights."""

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
from headstrip_timm.describe import claim, describe_config, describe_weights, has_tag
from headstrip_timm.loading import adapted

API_VERSION = 1
FAMILIES = heads.FAMILIES

_options: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
"""What the networks built here were built with: timm does not write it down."""


@hookimpl
def build_model(spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
    """Build by name, with random weights; ``pretrained_cfg`` is the tag whose network it is."""
    check_entry_point(spec.name)
    _check_options(options)
    _check_tag(spec.name, options.get("pretrained_cfg"))
    try:
        model: nn.Module = timm.create_model(spec.name, pretrained=False, **options)
    except TypeError as error:
        # One that is unknown, or that the architecture's own entry point sets.
        if "keyword argument" not in str(error):
            raise
        raise PluginError(
            f"timm {timm.__version__} cannot build {spec.name!r} with the options "
            f"{dict(options)!r} ({error}). Leave out what it does not take."
        ) from error
    _options[model] = dict(options)
    return model


@hookimpl
def strip_head(
    model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
) -> Stripped:
    """Take the head off; see ``heads``."""
    built = spec is not None and model in _options
    shape = _input_shape(model, _options[model]) if built else None
    return heads.strip(model, family, built=spec is not None, input_shape=shape)


@hookimpl
def adapt_state_dict(
    loaded: object, model: nn.Module, entry: WeightsEntry | None
) -> dict[str, Tensor]:
    """Return what timm itself would load; see ``loading``."""
    return adapted(loaded, model, _options.get(model, {}))


@hookimpl
def describe_file(loaded: object, spec: BackboneSpec) -> WeightsEntry | None:
    """Describe a checkpoint that holds a network's ``pretrained_cfg`` beside its tensors."""
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
        raise UnknownBackboneError(_given_up(name, deprecated[name]))
    check_entry_point(name)
    return measure(claim(name))


@hookimpl
def reference(model: nn.Module, x: Tensor, family: str) -> Tensor:
    """Compute the embedding as timm's own pooling does; see ``heads``."""
    return heads.reference(model, x)


def check_entry_point(name: str) -> None:
    """Refuse a name that this timm lacks, or that another package took in timm's own table.

    Raises:
        PluginError: It is so.
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
            f"The name {name!r} in timm's table is none of timm's: the module {module!r} put it "
            "there. Bring the network as a plugin of your own: `headstrip new-plugin NAME` begins "
            "one."
        )
    raise PluginError(
        f"The name {name!r} in timm's table was overwritten by the module {module!r}, whose "
        "network is not timm's. Do not import that module before timm's networks are built."
    )


def _given_up(name: str, now: str | None) -> str:
    """Say what became of a name that timm gave up; its own table has names that are no more."""
    arch, _, tag = (now or "").partition(".")
    if not now or not timm.is_model(arch):
        return f"timm {timm.__version__} has removed {name!r}, and names nothing in its place."
    if tag and not has_tag(arch, tag):
        return (
            f"timm {timm.__version__} has renamed {name!r} to {now!r}, and has no such weights. "
            f"The architecture is 'timm:{arch}'."
        )
    return f"timm {timm.__version__} has renamed {name!r}. Write 'timm:{now}'."


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that make no encoder of images.

    Raises:
        PluginError: It is so.
    """
    if options.get("features_only"):
        raise PluginError(
            f"features_only={options['features_only']!r} makes timm return a list of feature maps, "
            "and an encoder returns one vector an image. Leave it out."
        )
    channels = options.get("in_chans")
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise PluginError(
            f"in_chans={channels!r} is no number of channels. Pass a whole number above zero."
        )


def _check_tag(name: str, tag: object) -> None:
    """Refuse a tag that this timm does not know.

    Raises:
        PluginError: It is so.
    """
    if isinstance(tag, str) and tag and not has_tag(name, tag):
        raise PluginError(
            f"timm {timm.__version__} has no weights {tag!r} of {name!r}. "
            "Name others, or install a newer one: `pip install --upgrade timm`."
        )


def _input_shape(model: nn.Module, options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the input of a network: what it or its configuration says, and options make of it."""
    channels, *size = cast("Any", model).pretrained_cfg["input_size"]
    # timm builds vitamin_xlarge_336 with the configuration of another, smaller network.
    patches = getattr(model, "patch_embed", None)
    # One that takes any size has the architecture's own there, whatever its weights' is.
    own = getattr(patches, "img_size", None) if getattr(patches, "strict_img_size", False) else None
    wanted = options.get("img_size") or own or tuple(size)
    height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
    return (options.get("in_chans") or channels, height, width)
