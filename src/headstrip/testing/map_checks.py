"""The check that the maps of a plugin's hook ``levels`` are right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headstrip.encoder.map_sizes import measure_map_sizes
from headstrip.errors import LevelError
from headstrip.network.levels import Level, LevelProblem, as_levels
from headstrip.network.taps import ChosenMaps, Maps, TappedMaps
from headstrip.testing.footprint import changes, footprint
from headstrip.testing.map_grids import grid_by_locality, grid_by_shift
from headstrip.testing.map_proofs import (
    cut_by_value,
    cut_misses,
    overwritten,
    some_of,
)
from headstrip.testing.pair import embedding_of
from headstrip.testing.report import CheckFailed, CheckSkipped
from headstrip.testing.subject import Subject


def maps(subject: Subject) -> str:
    """Each map of the hook levels determines the embedding, and its cells match the picture."""
    plugin, family = subject.registry.stripper(subject.spec.family)
    if not plugin.implements("levels"):
        _refuse_claims(subject, "the plugin states no levels")
        raise CheckSkipped("the plugin states no levels")
    backbone, x = subject.pair.stripped.backbone, subject.pair.x
    try:
        stated = plugin.call(
            "levels", subject.name, model=backbone, family=family, spec=subject.spec
        )
    except LevelError as error:
        _refuse_claims(subject, str(error))
        raise CheckSkipped(str(error)) from error
    if not isinstance(stated, nn.Module) and not stated:
        _refuse_claims(subject, "the plugin states no levels for it")
        raise CheckSkipped("the plugin states no levels for this backbone")
    if subject.spec.task != "image":
        raise CheckFailed("the plugin states levels for a network of video, which has no maps")
    with torch.no_grad():
        # Some networks prepare tensors in the first forward pass of a size.
        backbone(x)
        before = footprint(backbone)
        if isinstance(stated, nn.Module):
            found, about = _of_module(stated, backbone, x)
        else:
            found, about = _of_levels(as_levels(stated), backbone, x)
        if changed := changes(before, footprint(backbone)):
            raise CheckFailed(f"reading the maps changes {changed[0]} of the backbone")
        sizes = _sizes(found[1], len(x))
        module: nn.Module = found[2]
        grid = _grid(module, subject.pair.shape, [round(x.shape[-1] / size[1]) for size in sizes])
    _check_claims(subject)
    return f"{len(sizes)} maps, {about}, {grid}"


def _refuse_claims(subject: Subject, reason: str) -> None:
    if subject.spec.channels:
        claimed = subject.spec.channels
        raise CheckFailed(f"the catalog claims maps of the channels {claimed}, but {reason}")


def _check_claims(subject: Subject) -> None:
    """If the catalog states channels and strides, compare them with those of the network."""
    spec, backbone = subject.spec, subject.pair.stripped.backbone
    if not spec.channels:
        return
    device = torch.device("cpu")
    sizes = measure_map_sizes(backbone, spec, spec.input_shape, device, subject.registry)
    claims = {
        "channels": (spec.channels, tuple(size.channels for size in sizes)),
        "strides": (spec.strides, tuple(size.stride for size in sizes)),
    }
    for name, (claimed, seen) in claims.items():
        if claimed != seen:
            raise CheckFailed(f"the catalog claims the {name} {claimed}, but the maps have {seen}")


Found = tuple[Tensor, list[Tensor], nn.Module]


def _of_levels(levels: Sequence[Level], backbone: nn.Module, x: Tensor) -> tuple[Found, str]:
    if twice := [one.path for one in levels if levels.count(one) > 1]:
        raise CheckFailed(f"the plugin states the level {twice[0]!r} twice")
    try:
        module = TappedMaps(backbone, levels)
        result: Maps = module(x)
        _check_embedding(result[0], backbone, x)
        wrong = cut_misses(backbone, levels, x[:1], x[1:2])
    except LevelProblem as problem:
        raise CheckFailed(f"the network {problem}") from problem
    if wrong:
        paths = ", ".join(repr(levels[number].path) for number in wrong)
        raise CheckFailed(
            f"with the map of another picture at {paths}, the network does not give the embedding "
            "of that picture, so something else reaches the embedding too"
        )
    if changed := overwritten(backbone, levels, x):
        paths = ", ".join(repr(levels[number].path) for number in changed)
        raise CheckFailed(f"a later layer writes into the map at {paths}")
    return (result[0], result[1], module), "the embedding follows from each"


def _of_module(stated: nn.Module, backbone: nn.Module, x: Tensor) -> tuple[Found, str]:
    every: Maps = stated(x, None, True)
    _check_embedding(every[0], backbone, x)
    count = len(every[1])
    if not count or count != len(every[2]):
        raise CheckFailed(f"the module gives {count} maps and {len(every[2])} prefixes")
    for number in range(count):
        _, maps, _ = stated(x, (number,), True)
        if len(maps) != 1 or not torch.equal(maps[0], every[1][number]):
            raise CheckFailed(f"level {number} alone is another map than among all levels")
    _, maps, _ = stated(x[:1], tuple(some_of(count)), True)
    cuts = cut_by_value(backbone, maps, x[:1], x[1:2])
    about = (
        "from a module of the plugin, the embedding follows from "
        f"{cuts.count('proven')} of {len(cuts)}"
    )
    return (every[0], every[1], ChosenMaps(stated, tuple(range(count)), True)), about


def _check_embedding(found: Tensor, backbone: nn.Module, x: Tensor) -> None:
    if not torch.equal(found, embedding_of(backbone, x)):
        raise CheckFailed("the embedding beside the maps is not that of the backbone, bit for bit")


def _sizes(maps: list[Tensor], count: int) -> list[tuple[int, int]]:
    """Check the shapes of the maps, and return height and width of each."""
    for number, one in enumerate(maps):
        if one.ndim != 4 or len(one) != count:
            raise CheckFailed(f"level {number} gives {tuple(one.shape)} instead of (N, C, H, W)")
    sizes = [(one.shape[2], one.shape[3]) for one in maps]
    if sizes != sorted(sizes, reverse=True):
        raise CheckFailed(f"the maps do not come the finest first: their sizes are {sizes}")
    return sizes


def _grid(module: nn.Module, shape: tuple[int, ...], strides: list[int]) -> str:
    """Prove that the cells of each map match the picture; raise an error if they certainly do not.

    Returns:
        Words that say how it was proven, or why it could not be proven.
    """
    most = max(strides)
    whole = (shape[0], *(max(3, side // most) * most for side in shape[1:]))
    try:
        if not grid_by_shift(module, whole, strides).wrong:
            return "the grid proven by shift"
    except Exception:
        # The network takes one size, or not only convolutions.
        pass
    if min(side // most for side in shape[1:]) < 2:
        return "the grid not proven, because the last map has one cell"
    proof = grid_by_locality(module, shape, most)
    if proof.misplaced:
        raise CheckFailed(f"the grid of level {proof.wrong[0]} {proof.misplaced}")
    if proof.wrong:
        return "the grid not proven, because changes spread in this network"
    return "the grid proven by locality"
