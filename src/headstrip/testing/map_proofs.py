"""Proofs that the feature maps of any network are right. The conformance kit uses them.

- *Cut*: if the forward pass of picture B gets the map of picture A, it gives A's embedding, bit for
  bit. This fails if the embedding depends on more than the map.
- *Tail*: the mean of the last map, or the first prefix token, is the embedding, if the network
  computes it in this way.
- *Unwritten*: no later layer writes into a map.
- *Depth*: a map is the output of the last layer of its stage. This fails for a map that is one
  block too early, which passes all other proofs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headstrip.network.levels import Level, from_map
from headstrip.network.taps import Maps, TappedMaps
from headstrip.testing.map_grids import difference


def cut_misses(backbone: nn.Module, levels: Sequence[Level], x: Tensor, y: Tensor) -> list[int]:
    """Return the numbers of the levels whose map does not determine the embedding.

    Args:
        backbone: The network, in eval mode.
        levels: Its levels.
        x: A batch.
        y: Another batch of the same shape, with another embedding.
    """
    expected, maps, prefixes = TappedMaps(backbone, levels)(x)
    if torch.equal(expected, backbone(y)):
        raise ValueError("the two batches have the same embedding, so that nothing can fail")
    wrong = []
    for number, level in enumerate(levels):
        native = from_map(maps[number], prefixes[number], level)
        with _replaced(backbone, level, native):
            found = backbone(y)
        if not torch.equal(found, expected):
            wrong.append(number)
    return wrong


_MOST = 6


def some_of(count: int) -> list[int]:
    """Return the numbers of at most six levels, the last one included, for slow proofs."""
    most = min(count, _MOST)
    return sorted(count - 1 - number * count // most for number in range(most))


Cut = Literal["proven", "partial", "unseen"]


def cut_by_value(backbone: nn.Module, maps: Sequence[Tensor], x: Tensor, y: Tensor) -> list[Cut]:
    """Do the cut proof for maps without stated levels, at the modules that return or read them.

    Args:
        backbone: The network, in eval mode.
        maps: Its maps of ``x``.
        x: A batch of one.
        y: Another batch of one, with another embedding.

    Returns:
        For each map ``proven`` if the embedding follows from it, ``partial`` if the embedding also
        depends on something else, or ``unseen`` if no module returns or reads its values.
    """
    expected = backbone(x)
    places = _places(backbone, maps, x)
    found: list[Cut] = []
    for number in range(len(maps)):
        outcome: Cut = "unseen"
        # Try the last place first. Modules that only repeat the map, such as an identity, come
        # before it.
        for place in reversed(places[number]):
            with _replaced(backbone, place.level, place.native, place.call):
                is_same = torch.equal(backbone(y), expected)
            outcome = "proven" if is_same else "partial"
            if is_same:
                break
        found.append(outcome)
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """A call of a module, the tensor that it reads or returns, and how many layers ran before."""

    level: Level
    native: Tensor
    call: int
    depth: int = 0


def _places(backbone: nn.Module, maps: Sequence[Tensor], x: Tensor) -> dict[int, list[_Place]]:
    """Return the modules that return or read each map, with their tensors."""
    places: dict[int, list[_Place]] = {number: [] for number in range(len(maps))}

    def keep(place: _Place) -> None:
        for number, one in enumerate(maps):
            if _is_map(place.native, one):
                places[number].append(replace(place, native=place.native.clone()))

    _visit(backbone, x, keep)
    return places


def _visit(backbone: nn.Module, x: Tensor, keep: Callable[[_Place], None]) -> None:
    """Call a function with the input and the output of every module, in their order."""
    calls: Counter[Level] = Counter()
    depth = 0

    def note(level: Level, value: Any) -> None:
        call = calls[level]
        calls[level] += 1
        tensor = value[0] if isinstance(value, (tuple, list)) and value else value
        if isinstance(tensor, Tensor):
            keep(_Place(level, tensor, call, depth))

    def enter(level: Level, value: Any, weighs: bool) -> None:
        nonlocal depth
        note(level, value)
        depth += weighs

    handles = []
    for path, module in backbone.named_modules():
        if not path or isinstance(module, torch.jit.ScriptModule):
            continue
        # Only layers with matrices count: weights of norms and scales are vectors.
        own = module.parameters(recurse=False)
        weighs = any(max(one.shape, default=1) < one.numel() for one in own)
        read, given = Level(path, reads=True), Level(path)
        handles += [
            module.register_forward_pre_hook(
                lambda _, inputs, at=read, weighs=weighs: enter(at, inputs, weighs)
            ),
            module.register_forward_hook(lambda _, inputs, output, at=given: note(at, output)),
        ]
    try:
        backbone(x)
    finally:
        for handle in handles:
            handle.remove()


def _is_map(tensor: Tensor, one: Tensor) -> bool:
    """Return whether a tensor has the values of a map (1, C, H, W), in any layout."""
    channels, height, width = one.shape[1:]
    if tensor.ndim == 4:
        layouts = (tensor, tensor.permute(0, 3, 1, 2))
        return any(found.shape == one.shape and torch.equal(found, one) for found in layouts)
    cells = height * width
    if tensor.ndim != 3 or (len(tensor), tensor.shape[2]) != (len(one), channels):
        return False
    if tensor.shape[1] < cells:
        return False
    return torch.equal(tensor[:, -cells:].transpose(1, 2).reshape(one.shape), one)


def too_early(backbone: nn.Module, levels: Sequence[Level], x: Tensor, y: Tensor) -> dict[int, str]:
    """Return the levels that are not at the end of their stage, and the modules at that end.

    Between a level and the next one, no layer with weights may return a tensor of the same shape
    that determines the embedding. So a plain ViT must have a map for every block. Norms and
    activations do not count.

    Args:
        backbone: The network, in eval mode.
        levels: Its levels.
        x: A batch.
        y: Another batch of the same shape, with another embedding.

    Returns:
        For each number of such a level, the path of the later module.
    """
    expected, maps, prefixes = TappedMaps(backbone, levels)(x)
    shapes = {
        from_map(found, prefix, level).shape
        for found, prefix, level in zip(maps, prefixes, levels, strict=True)
    }
    places: list[_Place] = []

    def keep(place: _Place) -> None:
        if place.native.shape in shapes:
            places.append(replace(place, native=place.native.clone()))

    _visit(backbone, x, keep)
    own = [_place_of(level, places) for level in levels]
    found: dict[int, str] = {}
    for number, level in enumerate(own):
        tried: list[_Place] = []
        for place in places:
            if place.depth <= level.depth or place.native.shape != level.native.shape:
                continue
            if number + 1 < len(own) and _is_reached(place, own[number + 1]):
                continue
            if any(_covers(one, place) for one in tried):
                continue
            tried.append(place)
            with _replaced(backbone, place.level, place.native, place.call):
                is_same = torch.equal(backbone(y), expected)
            if is_same:
                found[number] = place.level.path
    return found


def _is_reached(place: _Place, level: _Place) -> bool:
    """Return whether a place is the next level or after it, not counting norms and activations."""
    if place.depth == level.depth:
        return place.native.shape == level.native.shape
    return place.depth > level.depth


def _covers(one: _Place, later: _Place) -> bool:
    """Return whether a replacement of one tensor also replaces a later tensor with equal values."""
    if one.depth != later.depth or (one.level.reads and not later.level.reads):
        return False
    return torch.equal(one.native, later.native)


def _place_of(level: Level, places: Sequence[_Place]) -> _Place:
    """Return the last place of a level; a tap also keeps the last one."""
    where = Level(level.path, level.reads)
    return [place for place in places if place.level == where][-1]


@contextmanager
def _replaced(
    backbone: nn.Module, level: Level, native: Tensor, call: int | None = None
) -> Iterator[None]:
    """Replace the tensor of a level by another one, in one call of its module or in all calls."""
    module = backbone.get_submodule(level.path)
    calls = itertools.count()

    def is_meant() -> bool:
        number = next(calls)
        return call is None or number == call

    def filled(own: Tensor) -> Tensor:
        # The rounding of kernels depends on the memory layout, so keep that of the network.
        return torch.empty_like(own).copy_(native)

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (filled(inputs[0]), *inputs[1:]) if is_meant() else inputs

    def after(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if not is_meant():
            return output
        if isinstance(output, list):
            return [filled(output[0]), *output[1:]]
        return (filled(output[0]), *output[1:]) if isinstance(output, tuple) else filled(output)

    if level.reads:
        handle = module.register_forward_pre_hook(before)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def overwritten(backbone: nn.Module, levels: Sequence[Level], x: Tensor) -> list[int]:
    """Return the numbers of the levels whose map a later layer writes into."""
    kept: dict[int, Tensor] = {}
    handles = []
    for number, level in enumerate(levels):
        module = backbone.get_submodule(level.path)

        def keep(_: nn.Module, inputs: Any, output: Any = None, number: int = number) -> None:
            found = inputs if output is None else output
            kept[number] = (found[0] if isinstance(found, (tuple, list)) else found).clone()

        if level.reads:
            handles.append(module.register_forward_pre_hook(keep))
        else:
            handles.append(module.register_forward_hook(keep))
    try:
        _, maps, prefixes = TappedMaps(backbone, levels)(x)
    finally:
        for handle in handles:
            handle.remove()
    return [
        number
        for number, level in enumerate(levels)
        if not level.is_finished_in_place
        and not torch.equal(from_map(maps[number], prefixes[number], level), kept[number])
    ]


def tail_of(maps: Maps) -> str | None:
    """Return how the embedding follows from the last map: ``mean``, ``token`` or None."""
    embedding, found, prefixes = maps
    prefix = prefixes[-1]
    if prefix is not None and prefix.shape[1] and torch.equal(prefix[:, 0], embedding):
        return "token"
    means = (found[-1].mean((2, 3)), found[-1].permute(0, 2, 3, 1).flatten(1, 2).mean(1))
    if any(one.shape == embedding.shape and difference(one, embedding) <= 1e-6 for one in means):
        return "mean"
    return None
