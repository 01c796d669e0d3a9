"""The hooks of the plugin. transformers builds networks, headstrip reads the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from headstrip import (
    BackboneSpec,
    HeadNotFoundError,
    Level,
    Preprocessing,
    Stripped,
    WeightsEntry,
    detach,
    hookimpl,
)
from headstrip.plugin_api import measure
from headstrip_transformers import repository, towers
from headstrip_transformers.configs import config_of, input_shape_of
from headstrip_transformers.levels import levels_of
from headstrip_transformers.loading import adapted
from headstrip_transformers.towers import HEAD, TOWERS, VisionTower, network_class

SOURCE = "hf"
API_VERSION = 1
FAMILIES = tuple(TOWERS)
INPUT_OPTIONS = {"in_chans": "num_channels", "img_size": "img_size"}


@hookimpl
def build_model(spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
    """Build a tower from the defaults of its configuration and the options.

    ``img_size`` keeps the network and its position embeddings, which transformers interpolates in
    the forward pass. ``image_size``, a field of the configuration, builds a different network.
    """
    tower = TOWERS[spec.family.rpartition(":")[2]]
    size = options.get("img_size")
    options = {key: value for key, value in options.items() if key != "img_size"}
    config = config_of(tower, options)
    network: nn.Module = network_class(tower)(config)
    if tower.output == "logits" and options.get("num_classes") == 0:
        network.set_submodule(HEAD, nn.Identity())
    own = dict(spec.options)
    resized = any(options.get(key) != own.get(key) for key in ("image_size", "num_channels"))
    shape = input_shape_of(config) if resized else None
    if size is not None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shape = (input_shape_of(config)[0], *sides)
    interpolates = size is not None and tower.interpolates
    return VisionTower(network, tower.output, shape, interpolates=interpolates).train()


@hookimpl
def strip_head(
    model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
) -> Stripped:
    """Remove the last layer. ``towers`` describes the resulting embedding."""
    tower = TOWERS[family]
    network = model.network if isinstance(model, VisionTower) else model
    # A user's subclass may use its head in another way, so accept only the class itself.
    if type(network) is not network_class(tower):
        raise HeadNotFoundError(
            f"The class {type(network).__name__} is not {tower.network}, the class of the family "
            f"{family!r}. Pass the family that the network belongs to."
        )
    whole = model if isinstance(model, VisionTower) else VisionTower(model, tower.output)
    if tower.output != "logits" or (spec and isinstance(network.get_submodule(HEAD), nn.Identity)):
        return Stripped(whole, None, (), "headless", whole.input_shape)
    stripped = detach(network, HEAD)
    path = f"network.{HEAD}" if whole is model else HEAD
    return replace(stripped, backbone=whole, paths=(path,), input_shape=whole.input_shape)


@hookimpl
def adapt_state_dict(
    loaded: object, model: nn.Module, entry: WeightsEntry | None
) -> dict[str, Tensor]:
    """Return the tensors that transformers would load; see ``loading``."""
    # headstrip calls this hook only with networks that `build_model` returned.
    return adapted(loaded, cast("VisionTower", model))


@hookimpl
def find_backbone(name: str) -> BackboneSpec | None:
    """Describe a repository of the hub, or a folder with the same files, by its configuration."""
    if not repository.is_repository(name):
        return measure(unmeasured_spec(name)) if name in TOWERS else None
    checkpoint = repository.read_checkpoint(name)
    preprocessing = repository.preprocessing_or_none(name)
    shape = preprocessing.input_shape if preprocessing else input_shape_of(checkpoint.config)
    spec = replace(
        unmeasured_spec(checkpoint.kind), name=name, options=checkpoint.options, input_shape=shape
    )
    return replace(measure(spec), default_weights=repository.revision_of(name))


@hookimpl
def weights(spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
    """Describe the weights of a repository. A model type has none."""
    if not repository.is_repository(spec.name):
        return ()
    preprocessing = repository.preprocessing_or_none(spec.name)
    class_names = repository.read_checkpoint(spec.name).class_names
    entry = WeightsEntry(
        tag=repository.revision_of(spec.name),
        locations=repository.weights_locations(spec.name),
        num_classes=dict(spec.options)["num_classes"] or None,
        input_shape=spec.input_shape,
        preprocessing=preprocessing,
        class_names=class_names,
    )
    return (entry,)


@hookimpl
def preprocessing(spec: BackboneSpec) -> Preprocessing | None:
    """Return a repository's preprocessing. A model type has none."""
    if not repository.is_repository(spec.name):
        return None
    return repository.read_preprocessing(spec.name)


@hookimpl
def reference(model: nn.Module, x: Tensor, family: str) -> Tensor:
    """Compute the embedding of a network without a classifier from its tokens."""
    network = model.network if isinstance(model, VisionTower) else model
    return towers.reference(network, x)


@hookimpl
def levels(model: nn.Module, family: str, spec: BackboneSpec) -> tuple[Level | str, ...]:
    """Say where the hidden states are; see ``levels``."""
    return levels_of(model, family)


def unmeasured_spec(kind: str) -> BackboneSpec:
    """Return the spec of a model type without the numbers that only ``measure`` finds out."""
    shape = input_shape_of(config_of(TOWERS[kind], {}))
    return BackboneSpec(kind, SOURCE, f"{SOURCE}:{kind}", SOURCE, "image", shape, 1, 0)
