"""Proofs that the rows and columns of a map match those of the picture.

- *Shift*: convolutions and poolings continue at the other side of the picture. If the picture is
  rolled by the largest stride, its maps must be rolled too.
- *Locality*, for networks with attention: if one cell of the picture gets other pixels, the map
  must change most at this cell.

Both fail for a transposed grid, and for a prefix token in the place of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headstrip.network.taps import Maps

SHIFT = 1e-4
"""Largest difference of rolled maps that rounding explains, relative to the largest number."""

_SEED = 7


@dataclass(frozen=True, slots=True)
class GridProof:
    """The result of the grid proof.

    Attributes:
        way: ``shift`` or ``locality``.
        wrong: Numbers of the levels that fail.
        worst: The largest relative difference of rolled maps, or the smallest share of changed
            cells at which the map changed most.
        misplaced: Words for the fault of a grid if it is certain, otherwise None.
    """

    way: Literal["shift", "locality"]
    wrong: tuple[int, ...]
    worst: float
    misplaced: str | None = None


def grid_by_shift(
    maps_of: nn.Module,
    shape: tuple[int, ...],
    strides: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> GridProof:
    """Roll a picture by the largest stride on a torus, and compare the rolled maps.

    Args:
        maps_of: A module that returns embedding, maps and prefix tokens.
        shape: Input without the batch axis. Height and width are multiples of the largest stride,
            at least two of it.
        strides: The stride of each map.
        dtype: Dtype of the network. In a deep network of random values the rounding errors of
            float32 can become larger than ``SHIFT``; those of float64 do not.
    """
    most = max(strides)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(_SEED)).to(dtype)
    with Torus():
        one: Maps = maps_of(x)
        two: Maps = maps_of(torch.roll(x, (most, -most), (2, 3)))
    differences = []
    for found, rolled, stride in zip(one[1], two[1], strides, strict=True):
        moved = torch.roll(found, (most // stride, -(most // stride)), (2, 3))
        differences.append(difference(rolled, moved))
    wrong = tuple(number for number, largest in enumerate(differences) if not largest <= SHIFT)
    return GridProof("shift", wrong, max(differences))


def grid_by_locality(maps_of: nn.Module, shape: tuple[int, ...], stride: int) -> GridProof:
    """Put other pixels under single cells, and find where each map changes most.

    Args:
        maps_of: A module that returns embedding, maps and prefix tokens.
        shape: Input without the batch axis.
        stride: Side of a cell in pixels, the largest stride.

    Returns:
        The proof. If the grid passes in another order, ``misplaced`` names the fault.
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
    """Return cells that tell rows from columns, and the first cell from the last."""
    last = (rows - 1, columns - 1)
    cells = {(0, 0), (last[0], 0), (0, last[1]), (rows // 2, columns // 3), (last[0], last[1] - 1)}
    return sorted(cell for cell in cells if min(cell) >= 0)


def _share(change: Tensor, cells: list[tuple[int, int]], rows: int, columns: int) -> float:
    """Return the share of changed cells at which a map changed most."""
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
"""Ways in which a grid can be turned, each with a function that turns it back."""

_MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "counts a prefix token as a patch": lambda change: _rolled(change, -1),
    "drops the first patch": lambda change: _rolled(change, 1),
}
"""Ways in which a grid can begin at the wrong token, each with a function that corrects it."""


def _orders(has_cells: bool) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield the ways in which a grid can be wrong.

    Args:
        has_cells: Whether the map has one position per cell. In a finer map a shift by one
            position cannot be noticed.
    """
    yield from _TURNED.items()
    if has_cells:
        yield from _MOVED.items()


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected number."""
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

    A layer of stride s maps a side of n pixels to n / s, rounded up, for any padding.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Wrap the input of a convolution or pooling around; run all other calls unchanged."""
        name = getattr(func, "__name__", "").lstrip("_")
        if name == "pad" and _pads_rows_and_columns(*args, **(kwargs or {})):
            # Leave out explicit padding. The next layer, without padding, wraps around instead.
            return args[0]
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


def _pads_rows_and_columns(input: Tensor, pad: Sequence[int], *_: Any, **__: Any) -> bool:
    return input.ndim == 4 and len(pad) <= 4


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
