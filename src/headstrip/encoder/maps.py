"""Feature maps and tokens of an encoder: choose its levels, and read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.encoder.map_choice import as_integers, check_flag, check_levels, listed
from headstrip.encoder.map_inputs import FAILURES, check_batch, explained
from headstrip.encoder.map_owner import Owner
from headstrip.encoder.map_sizes import MapSize, makeup_of, measure_map_sizes, stated_levels
from headstrip.errors import HeadstripError, LevelError, one_line
from headstrip.network.levels import LevelProblem, without_norm
from headstrip.network.taps import ChosenMaps, Maps, TappedMaps
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one level of a transformer.

    Attributes:
        patches: The tokens of the patches (N, L, C), row by row.
        prefix: The tokens before them (N, T, C), such as a class token and registers; T may be 0.
        grid: Numbers of rows and columns of the patches; L is their product.

    Example:
        >>> import torch
        >>> from headstrip import build_encoder
        >>> encoder = build_encoder("vit_b_32", weights=None)
        >>> tokens = encoder.tokens(torch.zeros(1, 3, 224, 224))
        >>> tokens.patches.shape, tokens.prefix.shape, tokens.grid
        (torch.Size([1, 49, 768]), torch.Size([1, 1, 768]), (7, 7))
    """

    patches: Tensor
    prefix: Tensor
    grid: tuple[int, int]


def maps_module(
    backbone: nn.Module, spec: BackboneSpec, levels: tuple[int, ...], norm: bool
) -> nn.Module:
    """Return a module that maps a batch to the embedding and the maps of some levels.

    Args:
        backbone: The stripped network, whose tensors the module shares.
        spec: The backbone.
        levels: Numbers of the levels.
        norm: Whether the last level is after the network's last norm.

    Raises:
        LevelError: The network lacks a level that its plugin states, or ``norm`` is neither True
            nor False.
    """
    check_flag("norm", norm)
    stated = stated_levels(backbone, spec)
    if isinstance(stated, nn.Module):
        return ChosenMaps(stated, levels, norm)
    chosen = [stated[number] if norm else without_norm(stated[number]) for number in levels]
    try:
        return TappedMaps(backbone, chosen)
    except LevelProblem as problem:
        raise _misfit(spec, problem) from problem


def read_maps(encoder: Owner, x: Tensor, levels: tuple[int, ...], norm: bool) -> Maps:
    """Run an encoder once, and return its embedding, maps and prefix tokens.

    Raises:
        LevelError: As ``run``.
    """
    return run(encoder, maps_module(encoder.backbone, encoder.spec, levels, norm), x)


def run(encoder: Owner, module: nn.Module, x: Tensor) -> Maps:
    """Run a module of ``maps_module``; if it fails because of the batch, explain why.

    Raises:
        LevelError: The encoder does not take the batch, or the levels that the plugin states do
            not fit the network.
    """
    check_batch(x)
    try:
        maps: Maps = module(x if encoder.expand is None else encoder.expand(x))
    except LevelProblem as problem:
        raise _misfit(encoder.spec, problem) from problem
    except HeadstripError:
        raise
    except FAILURES as error:
        problem_of_x = explained(encoder, x, error)
        if problem_of_x is None:
            raise
        raise problem_of_x from error
    if any(fine.shape[2] < coarse.shape[2] for fine, coarse in pairwise(maps[1])):
        sizes = ", ".join(f"{one.shape[2]} x {one.shape[3]}" for one in maps[1])
        raise _misfit(
            encoder.spec, LevelProblem(f"gives maps of {sizes}, and the finest must come first")
        )
    return maps


def read_tokens(encoder: Owner, x: Tensor, level: int, norm: bool) -> Tokens:
    """Run an encoder once, and return the tokens of one level.

    Raises:
        LevelError: The encoder has no such level, or the level has no tokens.
    """
    if as_integers([level]) is None:
        raise LevelError(f"level must be an integer, got {level!r:.60}. Pass for example level=-1.")
    (number,) = choose_levels(encoder, [level], None)
    _, (found,), (prefix,) = read_maps(encoder, x, (number,), norm)
    if prefix is None:
        raise LevelError(
            f"{encoder.spec.qualified_name} has no tokens at level {number}, but a map of "
            f"{found.shape[1]} channels and {found.shape[2]} x {found.shape[3]} positions. Use "
            f"encoder.maps(x, levels=[{number}])."
        )
    grid = (found.shape[2], found.shape[3])
    return Tokens(found.flatten(2).transpose(1, 2), prefix, grid)


def choose_levels(
    encoder: Owner, levels: Sequence[int] | None, strides: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the numbers of the levels that a caller chose, the finest first.

    Args:
        encoder: The encoder.
        levels: Numbers of levels; negative ones count from the last.
        strides: Strides instead of numbers; each selects the last level of that stride.

    Raises:
        LevelError: The encoder has no maps, or lacks one of those.
    """
    if levels is not None and strides is not None:
        raise LevelError(
            f"Both levels={levels!r:.100} and strides={strides!r:.100} were passed. Pass one of "
            "them."
        )
    count = _count(encoder)
    if strides is not None:
        return _of_strides(encoder, _integers("strides", strides, "(8, 16, 32)"))
    if levels is None:
        return tuple(range(count))
    given = _integers("levels", levels, "[-1]")
    if not all(-count <= number < count for number in given):
        check_levels(encoder.spec.qualified_name, given, _pairs(encoder))
    chosen = tuple(number % count for number in given)
    if list(chosen) != sorted(set(chosen)):
        raise LevelError(
            f"levels={levels!r:.100} names the levels {list(chosen)}, and each must be named at "
            f"most once, in ascending order. Pass levels={sorted(set(chosen))}."
        )
    return chosen


def map_sizes(encoder: Owner) -> tuple[MapSize, ...]:
    """Return channels and stride of every level; measure them unless the network is unchanged.

    Raises:
        LevelError: The encoder has no maps.
    """
    makeup = makeup_of(encoder.backbone)
    if encoder._map_sizes is None or encoder._map_sizes[0] != makeup:
        shape, device = backbone_shape(encoder), encoder.device
        try:
            sizes = measure_map_sizes(encoder.backbone, encoder.spec, shape, device)
        except LevelProblem as error:
            raise _misfit(encoder.spec, error) from error
        strides = [size.stride for size in sizes]
        if strides != sorted(strides):
            given = ", ".join(map(str, strides))
            problem = f"has maps of the strides {given}, and the finest must come first"
            raise _misfit(encoder.spec, LevelProblem(problem))
        encoder._map_sizes = (makeup, sizes)
    return encoder._map_sizes[1]


def _count(encoder: Owner) -> int:
    stated = stated_levels(encoder.backbone, encoder.spec)
    return len(map_sizes(encoder)) if isinstance(stated, nn.Module) else len(stated)


def _integers(name: str, given: Any, example: str) -> list[int]:
    found = as_integers(given)
    if found is None:
        raise LevelError(
            f"{name} must be a list of one or more integers, got {given!r:.100}. Pass for example "
            f"{name}={example}."
        )
    return found


def _of_strides(encoder: Owner, strides: list[int]) -> tuple[int, ...]:
    last = {size.stride: number for number, size in enumerate(map_sizes(encoder))}
    for stride in strides:
        if stride not in last:
            raise LevelError(
                f"{encoder.spec.qualified_name} has no map of stride {stride}. "
                f"{listed(_pairs(encoder))}"
            )
    chosen = tuple(last[stride] for stride in strides)
    if list(chosen) != sorted(set(chosen)):
        raise LevelError(
            f"strides={tuple(strides)} must name each stride at most once, in ascending order. "
            f"Pass strides={tuple(sorted(set(strides)))}."
        )
    return chosen


def _pairs(encoder: Owner) -> list[tuple[int, int]]:
    """Return channels and stride of each map."""
    return [(size.channels, size.stride) for size in map_sizes(encoder)]


def backbone_shape(encoder: Owner) -> tuple[int, ...]:
    """Return the input shape of the backbone; it has more channels if ``expand`` adds them."""
    shape = encoder.input_shape
    if encoder.expand is None:
        return shape
    device, dtype = encoder.device, encoder.dtype
    pixel = torch.zeros((1, shape[0], 1, 1), device=device, dtype=dtype)
    return (encoder.expand(pixel).shape[1], *shape[1:])


def _misfit(spec: BackboneSpec, problem: LevelProblem) -> LevelError:
    plugin, _ = get_registry().stripper(spec.family)
    return LevelError(
        f"The feature maps of {spec.qualified_name} cannot be read: the network "
        f"{one_line(problem)}. If you changed the network, build the encoder again. Otherwise "
        f"report this to the author of the plugin {plugin.label}."
    )
