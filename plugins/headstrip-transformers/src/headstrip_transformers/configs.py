"""Configurations of transformers as constructor options, and back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

import transformers

from headstrip.plugin_api import Pairs, freeze
from headstrip_transformers.towers import Tower, config_class

_NO_TEXT = {"bos_token_id": None, "eos_token_id": None}
"""The text tower is never built; transformers finds fault with the tokens of its own defaults."""

_BY_KEYWORD = "attn_implementation"
"""What transformers takes beside the fields: ``eager``, ``sdpa`` ..."""


def fields_of(tower: Tower) -> dict[str, Any]:
    """Return the fields that make a tower, with their defaults."""
    config: dict[str, Any] = config_class(tower)().to_dict()
    return {key: value for key, value in config.items() if key not in _general() | tower.derived}


@cache
def _general() -> frozenset[str]:
    """Name the fields that every configuration has: nothing of a network follows from them."""
    return frozenset(transformers.PreTrainedConfig().to_dict())


def options_of(tower: Tower, config: Any) -> Pairs:
    """Return the fields in which a configuration differs from its type's defaults, as pairs."""
    stated, defaults = config.to_dict(), fields_of(tower)
    changed = {key: value for key, value in stated.items() if key in defaults}
    return tuple(
        (key, freeze(value)) for key, value in sorted(changed.items()) if value != defaults[key]
    )


def config_of(tower: Tower, options: Mapping[str, Any]) -> Any:
    """Return the configuration that options make.

    Args:
        tower: Which tower.
        options: Fields of its configuration, and ``num_classes``.

    Raises:
        TypeError: A field is unknown. transformers would take it in silence.
    """
    fields = {key: _thawed(value) for key, value in options.items() if key != "num_classes"}
    known = {*fields_of(tower), _BY_KEYWORD}
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise TypeError(f"{tower.config} has no field {name!r}; near it are {', '.join(near)}")
    classes = options.get("num_classes")
    # With no label at all SigLIP's initialisation fails; a head that is not wanted is taken off.
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


def _thawed(value: Any) -> Any:
    """Return what ``freeze`` made tuples of as lists."""
    return [_thawed(item) for item in value] if isinstance(value, (tuple, list)) else value
