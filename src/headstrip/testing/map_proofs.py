"""Proofs that feature maps are right, whatever the network: what the kit demands of levels.

- *Cut*: put the map of picture A in the place of picture B's, and the forward pass of B gives A's
  embedding, bit for bit. It fails for a map that is only a part of what the embedding depends on.
- *Grid*, by shift: with convolutions and poolings that continue at the other side of the picture, a
  picture rolled by the largest stride has rolled maps. Or, for networks with attention, by
  locality: another picture under one cell changes the map most there. It fails for a transposed
  grid, and for a prefix token in the place of a patch.
- *Tail*: the mean of the last map, or the first prefix token, is the embedding where the network
  computes it so.
- *Unwritten*: no later layer writes into a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headstrip.network.levels import Level, from_map
from headstrip.network.taps import Maps, TappedMaps

SHIFT = 1e-4
"""Largest difference of rolled maps, relative to the largest number: rounding explains no more."""

_SEED = 7


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
    """Cut a network at the modules that give or read its maps, for maps without stated levels.

    Args:
        backbone: The network, in eval mode.
        maps: Its maps of ``x``.
        x: A batch of one.
        y: Another one, with another embedding.

    Returns:
        For each map whether the embedding follows from it (``proven``), depends on something else
        too (``partial``), or no module gives or reads a tensor of its values (``unseen``).
    """
    expected = backbone(x)
    places = _places(backbone, maps, x)
    found: list[Cut] = []
    for number in range(len(maps)):
        outcome: Cut = "unseen"
        # The last place first: what only repeats the map, such as an identity, comes earlier.
        for level, native in reversed(places[number]):
            with _replaced(backbone, level, native):
                is_same = torch.equal(backbone(y), expected)
            outcome = "proven" if is_same else "partial"
            if is_same:
                break
        found.append(outcome)
    return found


def _places(
    backbone: nn.Module, maps: Sequence[Tensor], x: Tensor
) -> dict[int, list[tuple[Level, Tensor]]]:
    """Return the modules that give or read each map, and the tensor there."""
    places: dict[int, list[tuple[Level, Tensor]]] = {number: [] for number in range(len(maps))}

    def note(level: Level, value: Any) -> None:
        tensor = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(tensor, Tensor):
            return
        for number, one in enumerate(maps):
            if _is_map(tensor, one):
                places[number].append((level, tensor.clone()))

    handles = []
    for path, module in backbone.named_modules():
        if not path or isinstance(module, torch.jit.ScriptModule):
            continue
        read, given = Level(path, reads=True), Level(path)
        handles += [
            module.register_forward_pre_hook(lambda _, inputs, at=read: note(at, inputs)),
            module.register_forward_hook(lambda _, inputs, output, at=given: note(at, output)),
        ]
    try:
        backbone(x)
    finally:
        for handle in handles:
            handle.remove()
    return places


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


@contextmanager
def _replaced(backbone: nn.Module, level: Level, native: Tensor) -> Iterator[None]:
    """Make a level give a tensor, whatever it computes."""
    module = backbone.get_submodule(level.path)

    def filled(own: Tensor) -> Tensor:
        # Kernels round by the memory layout, so the tensor takes that of the network's own.
        return torch.empty_like(own).copy_(native)

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (filled(inputs[0]), *inputs[1:])

    def after(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
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
    view = TappedMaps(backbone, levels)
    kept: dict[int, Tensor] = {}
    for number, level in enumerate(levels):
        module = view.network.get_submodule(level.path)

        def keep(*_: Any, number: int = number) -> None:
            kept[number] = view.seen(number).clone()

        # After the tap, which the view registered first.
        if level.reads:
            module.register_forward_pre_hook(keep)
        else:
            module.register_forward_hook(keep)
    _, maps, prefixes = view(x)
    return [
        number
        for number, level in enumerate(levels)
        if not level.is_finished_in_place
        and not torch.equal(from_map(maps[number], prefixes[number], level), kept[number])
    ]


@dataclass(frozen=True, slots=True)
class GridProof:
    """The result of the grid proof.

    Attributes:
        way: ``shift`` or ``locality``.
        wrong: Numbers of the levels that fail.
        worst: The largest relative difference of rolled maps, or the smallest share of cells whose
            change was largest in their place.
        misplaced: What is wrong with a grid, where that is certain.
    """

    way: Literal["shift", "locality"]
    wrong: tuple[int, ...]
    worst: float
    misplaced: str | None = None


def grid_by_shift(maps_of: nn.Module, shape: tuple[int, ...], strides: Sequence[int]) -> GridProof:
    """Roll a picture by the largest stride on a torus, and compare the rolled maps.

    Args:
        maps_of: A module that returns embedding, maps and prefix tokens.
        shape: Input without the batch axis, at least two of the largest strides wide, in multiples
            of it.
        strides: The stride of each map.
    """
    most = max(strides)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(_SEED))
    with Torus():
        one: Maps = maps_of(x)
        two: Maps = maps_of(torch.roll(x, (most, -most), (2, 3)))
    differences = []
    for found, rolled, stride in zip(one[1], two[1], strides, strict=True):
        moved = torch.roll(found, (most // stride, -(most // stride)), (2, 3))
        differences.append(_difference(rolled, moved))
    wrong = tuple(number for number, largest in enumerate(differences) if not largest <= SHIFT)
    return GridProof("shift", wrong, max(differences))


def grid_by_locality(maps_of: nn.Module, shape: tuple[int, ...], stride: int) -> GridProof:
    """Put another picture under single cells, and look where each map changes most.

    Args:
        maps_of: A module that returns embedding, maps and prefix tokens.
        shape: Input without the batch axis.
        stride: Side of a cell in pixels, the largest stride.

    Returns:
        The proof. ``misplaced`` names what is wrong where another order of the grid passes.
    """
    rows, columns = shape[1] // stride, shape[2] // stride
    cells = _telling_cells(rows, columns)
    generator = torch.Generator().manual_seed(_SEED)
    x = torch.randn(1, *shape, generator=generator).repeat(len(cells) + 1, 1, 1, 1)
    for number, (row, column) in enumerate(cells, 1):
        block = x[number, :, row * stride :, column * stride :][:, :stride, :stride]
        block.copy_(3 * torch.randn(block.shape, generator=generator))
    shares, misplaced = [], None
    for found in maps_of(x)[1]:
        change = (found[1:] - found[:1]).double().pow(2).sum(1)
        shares.append(_share(change, cells, rows, columns))
        if shares[-1] < 1:
            others = (
                name
                for name, reorder in _orders(change.shape[1:] == (rows, columns))
                if _share(reorder(change), cells, rows, columns) == 1
            )
            misplaced = misplaced or next(others, None)
    wrong = tuple(number for number, share in enumerate(shares) if share < 1)
    return GridProof("locality", wrong, min(shares), misplaced)


def _telling_cells(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return cells that distinguish rows from columns, and the first from the last."""
    last = (rows - 1, columns - 1)
    cells = {(0, 0), (last[0], 0), (0, last[1]), (rows // 2, columns // 3), (last[0], last[1] - 1)}
    return sorted(cell for cell in cells if min(cell) >= 0)


def _share(change: Tensor, cells: list[tuple[int, int]], rows: int, columns: int) -> float:
    """Return the share of cells under which a map changed most at their place."""
    height, width = change.shape[1:]
    hits = 0
    for one, cell in zip(change, cells, strict=True):
        row, column = divmod(int(one.argmax()), width)
        hits += (int((row + 0.5) * rows / height), int((column + 0.5) * columns / width)) == cell
    return hits / len(cells)


def _rolled(change: Tensor, count: int) -> Tensor:
    return change.flatten(1).roll(count, 1).reshape(change.shape)


_TURNED: dict[str, Callable[[Tensor], Tensor]] = {
    "has its rows for columns": lambda change: change.transpose(1, 2),
    "is upside down": lambda change: change.flip(1),
    "is mirrored": lambda change: change.flip(2),
}
"""How a grid can be turned, and what makes it right."""

_MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "counts a prefix token as a patch": lambda change: _rolled(change, -1),
    "drops the first patch": lambda change: _rolled(change, 1),
}
"""How a grid can begin at the wrong token, and what makes it right."""


def _orders(has_cells: bool) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield how a grid can be wrong. In a map finer than the cells, one place tells nothing."""
    yield from _TURNED.items()
    if has_cells:
        yield from _MOVED.items()


def tail_of(maps: Maps) -> str | None:
    """Return how the embedding follows from the last map: ``mean``, ``token`` or None."""
    embedding, found, prefixes = maps
    prefix = prefixes[-1]
    if prefix is not None and prefix.shape[1] and torch.equal(prefix[:, 0], embedding):
        return "token"
    means = (found[-1].mean((2, 3)), found[-1].permute(0, 2, 3, 1).flatten(1, 2).mean(1))
    if any(one.shape == embedding.shape and _difference(one, embedding) <= 1e-6 for one in means):
        return "mean"
    return None


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    scale = float(expected.abs().max()) or 1.0
    return float((found - expected).abs().max()) / scale


_POOL = ("input", "kernel_size", "stride", "padding")
_ARGUMENTS = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": (*_POOL, "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
}


class Torus(TorchFunctionMode):
    """A torch mode in which convolutions and poolings continue at the other side of the picture.

    A layer of stride s maps a side of n pixels to n / s, rounded up, whatever it pads.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Wrap the input of one convolution or pooling around, and run all other calls."""
        name = getattr(func, "__name__", "").lstrip("_")
        if name not in _ARGUMENTS:
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(_ARGUMENTS[name], args, strict=False)), **(kwargs or {})}
        is_convolution = name == "conv2d"
        sides = _pair(given["weight"].shape[2:] if is_convolution else given["kernel_size"])
        steps = _pair(given.get("stride") or (1 if is_convolution else sides))
        spread, padding = _pair(given.get("dilation", 1)), given.get("padding", 0)
        if isinstance(padding, str):
            before = tuple((d * (k - 1)) // 2 for k, d in zip(sides, spread, strict=True))
        else:
            before = _pair(padding)
        x = given["input"]
        for axis, side, apart, step, left in zip((2, 3), sides, spread, steps, before, strict=True):
            size = x.shape[axis]
            reach = (-(-size // step) - 1) * step + apart * (side - 1) + 1
            right = max(0, reach - size - left)
            if left or right:
                x = x.index_select(axis, torch.arange(-left, size + right) % size)
        own = {} if is_convolution else {"stride": steps, "ceil_mode": False}
        return func(**{**given, "input": x, "padding": 0, **own})


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
