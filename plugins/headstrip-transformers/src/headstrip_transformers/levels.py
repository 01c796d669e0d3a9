"""Where the feature maps of each model type are: at the network's own hidden states.

The last level of a transformer is after its last norm, except in CLIP, which does not apply its
norm to patch tokens. Stages of Swin end before the merging of patches, as in transformers' own
backbones, but without the norms that those add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import transformers
from torch import nn

from headstrip import Level, LevelError
from headstrip_transformers.configs import vision_part
from headstrip_transformers.towers import VisionTower

Levels = Callable[[Any], Sequence["Level | str"]]


def levels_of(backbone: nn.Module, family: str) -> tuple[Level | str, ...]:
    """Return the levels of a stripped tower, the finest first.

    Args:
        backbone: A ``VisionTower``.
        family: Its model type.

    Raises:
        LevelError: The installed transformers builds the tower from other modules.
    """
    try:
        return tuple(_LEVELS[family](cast("VisionTower", backbone).network))
    except AttributeError as error:
        raise LevelError(
            f"transformers {transformers.__version__} builds {family!r} from other modules, so "
            f"its feature maps are unknown ({error}). Install a newer transformers."
        ) from error


def _tokens(blocks: str, norm: str | None, prefix: Callable[[Any], int]) -> Levels:
    """Describe a network whose blocks all have one grid of tokens."""

    def levels(network: Any) -> list[Level]:
        config = vision_part(network.config)
        count = len(network.get_submodule(blocks))
        first = Level(
            f"network.{blocks}.0", layout="NLC", prefix=prefix(config), stride=config.patch_size
        )
        return _with_norm(
            [replace(first, path=f"network.{blocks}.{n}") for n in range(count)], norm
        )

    return levels


def _windows(name: str) -> Levels:
    """Describe a Swin: the last block of each stage, whose tokens have no prefix."""

    def levels(network: Any) -> list[Level]:
        stages = network.get_submodule(f"{name}.encoder.layers")
        found = [
            Level(
                f"network.{name}.encoder.layers.{number}.blocks.{len(stage.blocks) - 1}",
                layout="NLC",
                stride=network.config.patch_size * 2**number,
            )
            for number, stage in enumerate(stages)
        ]
        return _with_norm(found, f"{name}.layernorm")

    return levels


def _stages(path: str) -> Levels:
    """Describe a ConvNeXt: the output of each stage."""

    def levels(network: Any) -> list[str]:
        return [f"network.{path}.{number}" for number in range(len(network.get_submodule(path)))]

    return levels


def _with_norm(levels: list[Level], norm: str | None) -> list[Level]:
    """Put the last level after the network's last norm."""
    if norm is None:
        return levels
    last = levels[-1]
    return [*levels[:-1], replace(last, path=f"network.{norm}", raw=last.path)]


def _none(config: Any) -> int:
    return 0


def _class_token(config: Any) -> int:
    return 1


def _registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


_REGISTERS = "dinov2_with_registers"

_LEVELS: dict[str, Levels] = {
    "aimv2_vision_model": _tokens("encoder.layers", "rms_norm", _none),
    "clip_vision_model": _tokens("vision_model.encoder.layers", None, _class_token),
    "convnext": _stages("convnext.encoder.stages"),
    "convnextv2": _stages("convnextv2.encoder.stages"),
    "dinov2": _tokens("dinov2.encoder.layer", "dinov2.layernorm", _class_token),
    _REGISTERS: _tokens(f"{_REGISTERS}.encoder.layer", f"{_REGISTERS}.layernorm", _registers),
    "dinov3_convnext": _stages("model.stages"),
    "dinov3_vit": _tokens("model.layer", "norm", _registers),
    "ijepa": _tokens("ijepa.layers", "ijepa.layernorm", _none),
    "siglip_vision_model": _tokens(
        "vision_model.encoder.layers", "vision_model.post_layernorm", _none
    ),
    "swin": _windows("swin"),
    "swinv2": _windows("swinv2"),
    "vit": _tokens("vit.layers", "vit.layernorm", _class_token),
}
