"""Convert configurations of transformers to constructor options, and back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

import transformers

from headstrip.plugin_api import Pairs, freeze
from headstrip_transformers.towers import Tower, config_class

_NO_TEXT = {"bos_token_id": None, "eos_token_id": None}
"""The text tower is never built, but transformers complains about its default tokens."""

_BY_KEYWORD = "attn_implementation"
"""A keyword that transformers takes beside the fields, such as ``eager`` or ``sdpa``."""


def fields_of(tower: Tower) -> dict[str, Any]:
    """Return the fields that define a tower, with their defaults."""
    config: dict[str, Any] = config_class(tower)().to_dict()
    return {key: value for key, value in config.items() if key not in _general() | tower.derived}


@cache
def _general() -> frozenset[str]:
    """Return the fields that every configuration has. They do not affect the network."""
    return frozenset(transformers.PreTrainedConfig().to_dict())


def options_of(tower: Tower, config: Any) -> Pairs:
    """Return the fields in which a configuration differs from the defaults, as pairs."""
    stated, defaults = config.to_dict(), fields_of(tower)
    changed = {key: value for key, value in stated.items() if key in defaults}
    return tuple(
        (key, freeze(value)) for key, value in sorted(changed.items()) if value != defaults[key]
    )


def config_of(tower: Tower, options: Mapping[str, Any]) -> Any:
    """Return the configuration for constructor options.

    Args:
        tower: The tower.
        options: Fields of its configuration, and ``num_classes``.

    Raises:
        TypeError: A field is unknown. transformers itself would accept it silently.
    """
    fields = {key: _as_lists(value) for key, value in options.items() if key != "num_classes"}
    known = {*fields_of(tower), _BY_KEYWORD}
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise TypeError(
                f"{tower.config} has no field {name!r}. Similar fields: {', '.join(near)}"
            )
    classes = options.get("num_classes")
    # SigLIP's initialisation fails without labels, so build one and remove the head later.
    labels = {} if classes is None else {"num_labels": classes or 1}
    if tower.whole_config is None:
        return config_class(tower)(**fields, **labels)
    whole = getattr(transformers, tower.whole_config)
    attention = {key: fields.pop(key) for key in (_BY_KEYWORD,) if key in fields}
    return whole(vision_config=fields, text_config=_NO_TEXT, **attention, **labels)


def vision_part(config: Any) -> Any:
    """Return the configuration of the image tower in a configuration."""
    return getattr(config, "vision_config", None) or config


def input_shape_of(config: Any) -> tuple[int, int, int]:
    """Return (channels, height, width) of the input that a configuration states."""
    part = vision_part(config)
    size = part.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(part.num_channels), int(height), int(width)


def _as_lists(value: Any) -> Any:
    """Convert the tuples that ``freeze`` made back to lists."""
    return [_as_lists(item) for item in value] if isinstance(value, (tuple, list)) else value
