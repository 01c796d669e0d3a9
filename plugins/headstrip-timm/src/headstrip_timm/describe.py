"""Describe architectures and weights from timm's configurations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import timm
from timm.data.config import resolve_data_config
from timm.models import PretrainedCfg

from headstrip import BackboneSpec, PreprocessingError, WeightsEntry, WeightsError
from headstrip.plugin_api import one_line
from headstrip_timm.heads import family_of
from headstrip_timm.preprocessing import preprocessing_of

SOURCE = "timm"

# timm follows torch hub's convention: a file name ends with the first digits of its sha256.
_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_IMAGENET_1K = 1000

_TRAINED_WITH: dict[str, tuple[tuple[str, Any], ...]] = {"fbnetc_100": (("bn_eps", 1e-3),)}
"""Options that timm uses for an architecture only when it loads weights."""


def config_of(name: str, tag: str | None = None) -> dict[str, Any]:
    """Return timm's configuration of an architecture with a tag, by default the first one."""
    found = timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    return asdict(found or PretrainedCfg())


def has_tag(name: str, tag: str) -> bool:
    """Return whether the installed timm knows a tag of an architecture."""
    try:
        return timm.get_pretrained_cfg(f"{name}.{tag}", allow_unregistered=False) is not None
    except RuntimeError:
        return False


def tags_of(name: str) -> list[str]:
    """Return the tags of an architecture with published weights, timm's default first."""
    default = config_of(name).get("tag") or ""
    usable = [tag for tag in _tags().get(name, ()) if _locations(config_of(name, tag))]
    return sorted(usable, key=lambda tag: tag != default)


@cache
def _tags() -> dict[str, list[str]]:
    tags: dict[str, list[str]] = {}
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        if tag:
            tags.setdefault(name, []).append(tag)
    return tags


def unmeasured_spec(name: str) -> BackboneSpec:
    """Return the spec of a backbone without the numbers that only ``measure`` finds out."""
    tags = tags_of(name)
    shape = tuple(config_of(name, tags[0] if tags else None)["input_size"])
    return BackboneSpec(
        name,
        SOURCE,
        f"{SOURCE}:{family_of(name)}",
        SOURCE,
        "image",
        shape,
        1,
        0,
        tags[0] if tags else None,
    )


def describe_weights(name: str) -> tuple[WeightsEntry, ...]:
    """Describe the sets of weights of an architecture, timm's default first."""
    return tuple(_entry(name, config_of(name, tag), tag) for tag in tags_of(name))


def describe_config(name: str, stated: Mapping[str, Any]) -> WeightsEntry:
    """Describe the input, preprocessing and classes of a file by the ``pretrained_cfg`` in it.

    Args:
        name: The architecture, whose configuration supplies missing values.
        stated: The content of ``model.pretrained_cfg``, or a part of it.

    Raises:
        WeightsError: timm cannot read the configuration.
    """
    config = {**config_of(name), **stated}
    try:
        resolve: Any = resolve_data_config
        preprocessing = preprocessing_of(resolve(pretrained_cfg=config))
        classes = int(config["num_classes"] or 0) or None
    except (PreprocessingError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise WeightsError(
            f"timm cannot read the 'pretrained_cfg' in the file ({one_line(error, 200)}). Save "
            "the checkpoint without it, or pass weights='TAG=path' for the preprocessing of a tag."
        ) from error
    # Some networks are built for exactly the input size in their configuration.
    overlay = {"input_size": preprocessing.input_shape}
    own = preprocessing.input_shape == tuple(config_of(name)["input_size"])
    return WeightsEntry(
        "pretrained_cfg",
        options=() if own else (("pretrained_cfg_overlay", overlay),),
        num_classes=classes,
        input_shape=preprocessing.input_shape,
        preprocessing=preprocessing,
        class_names=_class_names(stated),
    )


def _class_names(stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Return ``label_names`` of a configuration, empty if it does not state them as texts."""
    names = stated.get("label_names")
    is_texts = isinstance(names, (list, tuple)) and all(isinstance(one, str) for one in names)
    return tuple(names) if names and is_texts else ()


def _entry(name: str, config: Mapping[str, Any], tag: str) -> WeightsEntry:
    resolve: Any = resolve_data_config
    resolved = resolve(pretrained_cfg=dict(config))
    locations = _locations(config)
    # The hash belongs to the file at the url; the hub has the same weights in another format.
    url = locations[0] if len(locations) == 1 and locations[0].startswith("https:") else ""
    classes = config["num_classes"] or None
    preprocessing = preprocessing_of(resolved)
    return WeightsEntry(
        tag=tag,
        locations=locations,
        sha256=found[1] if (found := _HASH.search(url)) else "",
        options=(*_TRAINED_WITH.get(name, ()), ("pretrained_cfg", tag)),
        num_classes=classes,
        input_shape=preprocessing.input_shape,
        # Some networks have a thousand outputs from training without labels.
        labels="imagenet-1k" if classes == _IMAGENET_1K and "in1k" in tag else None,
        preprocessing=preprocessing,
        license=config.get("license"),
    )


def _locations(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the locations of a set of weights, in the order in which timm tries them."""
    hub, file, url = (config.get(key) for key in ("hf_hub_id", "hf_hub_filename", "url"))
    locations = [f"hf:{hub}" + (f"/{file}" if file else "")] if hub else []
    # If weights have a special loader, the file at the url has a special format.
    if url and not config.get("custom_load"):
        locations.append(url)
    return tuple(locations)
