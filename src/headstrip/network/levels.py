"""Describe the places in a network where feature maps are.

A level is the output or the input of one module, through which everything passes that reaches the
embedding. A plugin describes a level once. With this description headstrip finds the map, replaces
it by another map (as the conformance kit does), and knows its memory layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from headstrip.system.arguments import type_of

Layout = Literal["NCHW", "NHWC", "NLC"]
LAYOUTS = get_args(Layout)

_READS = ">"


@dataclass(frozen=True, slots=True)
class Level:
    """Where one feature map of a network is.

    A string stands for a level too: ``"layer1"`` is ``Level("layer1")``, and ``">maxpool"``, which
    is what ``maxpool`` reads, is ``Level("maxpool", reads=True)``.

    Attributes:
        path: Dotted path of a module of the backbone. The map is its output, or the first item of
            that if it is a tuple.
        reads: Whether the map is the module's first input instead.
        layout: Layout of that tensor: ``NCHW``, ``NHWC``, or ``NLC`` for tokens.
        prefix: For ``NLC``: number of tokens before those of the patches (class token, registers).
        stride: For ``NLC``: pixels between two neighbouring patches, from which the grid follows.
        raw: Path of the module that gives this map before the network's last norm. Empty if no norm
            is part of this level.
        is_finished_in_place: Whether the network's last activation writes into this tensor, so that
            the map is the result. The network must not write into any other level.

    Example:
        >>> Level("encoder.ln", layout="NLC", prefix=1, stride=16).prefix
        1
    """

    path: str
    reads: bool = False
    layout: Layout = "NCHW"
    prefix: int = 0
    stride: int = 0
    raw: str = ""
    is_finished_in_place: bool = False


class LevelProblem(ValueError):
    """The tensor at a level is not what the level says. The message has no subject."""


def as_levels(given: Sequence[Level | str]) -> tuple[Level, ...]:
    """Turn the strings among levels into levels."""
    return tuple(
        one
        if isinstance(one, Level)
        else Level(one.removeprefix(_READS), reads=one.startswith(_READS))
        for one in given
    )


def without_norm(level: Level) -> Level:
    """Return the level before the network's last norm."""
    if not level.raw:
        return level
    return Level(level.raw, False, level.layout, level.prefix, level.stride)


def problem_of(level: object) -> str | None:
    """Return what is wrong with a level of a plugin, or None."""
    if isinstance(level, str):
        return None if level.removeprefix(_READS) else f"the level {level!r} without a path"
    if not isinstance(level, Level):
        return f"{type_of(level)} among its levels"
    if not (isinstance(level.path, str) and level.path and isinstance(level.raw, str)):
        return f"the level {level!r} without a path"
    if level.layout not in LAYOUTS:
        return f"a level with the layout {level.layout!r} instead of one of {', '.join(LAYOUTS)}"
    if level.layout == "NLC" and (level.stride < 1 or level.prefix < 0):
        return f"the level {level.path!r} of tokens without the stride of its patches"
    return None


def to_map(tensor: Tensor, level: Level, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Return a network's own tensor as a map (N, C, H, W), and its prefix tokens (N, T, C).

    Args:
        tensor: The tensor at the level.
        level: The level.
        size: Height and width of the image.

    Returns:
        Views of the tensor; the second one is None unless the level is one of tokens.

    Raises:
        LevelProblem: The tensor is not laid out as the level says.
    """
    axes = len(level.layout)
    if tensor.ndim != axes:
        raise LevelProblem(
            f"has {tensor.ndim} axes at {level.path!r}, where {level.layout} has {axes}"
        )
    if level.layout == "NCHW":
        return tensor, None
    if level.layout == "NHWC":
        return tensor.permute(0, 3, 1, 2), None
    grid = _grid(level, tensor.shape[1] - level.prefix, size)
    patches = tensor[:, level.prefix :].reshape(tensor.shape[0], *grid, tensor.shape[2])
    return patches.permute(0, 3, 1, 2), tensor[:, : level.prefix]


def from_map(found: Tensor, prefix: Tensor | None, level: Level) -> Tensor:
    """Return a map in the layout of the network: the inverse of ``to_map``."""
    if level.layout == "NCHW":
        return found
    rows = found.permute(0, 2, 3, 1)
    if level.layout == "NHWC":
        return rows
    assert prefix is not None
    return torch.cat([prefix, rows.flatten(1, 2)], 1)


def _grid(level: Level, patches: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of patches: rounded down, or up where the network pads."""
    height, width = size
    stride = level.stride
    down = (height // stride, width // stride)
    up = (-(-height // stride), -(-width // stride))
    for grid in (down, up):
        if grid[0] * grid[1] == patches:
            return grid
    raise LevelProblem(
        f"has {patches} tokens after {level.prefix} at {level.path!r}, which is not a grid of "
        f"patches of {stride} pixels on {height} x {width}"
    )
