"""Pixels that a network never sees, because its patches do not divide the size of its input.

A convolution with a wide stride cuts the image into patches, and leaves out the rows and columns
behind the last whole one. A network that pads its input first leaves nothing out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

Sizes = tuple[int, ...]

_LEAST_STRIDE = 3
"""Below it no patches are cut: a stride of 2 loses one row at most, as it does in every layer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a layer cuts an image, a number for each axis.

    Attributes:
        kernel: Pixels of a patch.
        stride: Pixels from one patch to the next.
        padding: Pixels that the layer itself adds on both sides.
    """

    kernel: Sizes
    stride: Sizes
    padding: Sizes

    def left_out(self, sizes: Sizes) -> Sizes:
        """Return how many pixels at the end of each axis are in no patch."""
        return tuple(
            max(0, (size + 2 * padding - kernel) % stride - padding)
            if stride >= _LEAST_STRIDE
            else 0
            for size, kernel, stride, padding in zip(
                sizes, self.kernel, self.stride, self.padding, strict=True
            )
        )

    def nearest(self, sizes: Sizes) -> list[Sizes]:
        """Return the sizes at hand that leave nothing out, the smaller first."""
        found = []
        for step in (-1, 1):
            near = list(sizes)
            while any(left := self.left_out(tuple(near))):
                near = [size + step * bool(lost) for size, lost in zip(near, left, strict=True)]
            found.append(tuple(near))
        return [near for near in found if all(map(int.__ge__, near, self.kernel))]


class PatchWatch(TorchFunctionMode):
    """Notes how a network cuts its input into patches, while it runs.

    Attributes:
        cuts: How each layer that takes the image cuts it, and the size that the image has there.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        """Take the input without the batch axis: channels, and the sizes of the other axes."""
        super().__init__()
        self._channels, self._sizes = input_shape[0], tuple(input_shape[1:])
        self.cuts: list[tuple[Cut, Sizes]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look at one call, and pass it on."""
        kwargs = kwargs or {}
        describe = _CUTTERS.get(func)
        if describe is not None:
            self._note(*describe(*args, **kwargs))
        return func(*args, **kwargs)

    def _note(self, x: Any, cut: Cut) -> None:
        sizes = tuple(x.shape[2:])
        if len(sizes) != len(self._sizes) or x.shape[1] != self._channels:
            return
        # The image itself, or what the network made of it by padding.
        if all(size >= whole for size, whole in zip(sizes, self._sizes, strict=True)):
            self.cuts.append((cut, sizes))

    def look_at(self, network: nn.Module) -> None:
        """Note how the layers of a network that failed would have cut the image."""
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.in_channels == self._channels:
                cut = _cut(module.kernel_size, module.stride, module.padding)
                if len(cut.kernel) == len(self._sizes):
                    self.cuts.append((cut, self._sizes))


def unseen(watch: PatchWatch, input_shape: tuple[int, ...]) -> str | None:
    """Say which pixels of its input a network never sees, and which sizes are near.

    Args:
        watch: What saw the network run.
        input_shape: Its input without the batch axis.

    Returns:
        Two sentences without a subject, or None where it sees all.
    """
    asked = tuple(input_shape[1:])
    for cut, sizes in watch.cuts:
        # What the network has added behind the image is left out first.
        added = [size - whole for size, whole in zip(sizes, asked, strict=True)]
        left = [max(0, lost - more) for lost, more in zip(cut.left_out(sizes), added, strict=True)]
        if any(left):
            return described(cut, asked, tuple(left))
    return None


def described(cut: Cut, asked: Sizes, left: Sizes) -> str:
    """Say what a cut leaves out of an input of the size that was asked for."""
    axes = ["frame", "row", "column"][-len(asked) :]
    lost = " and ".join(
        f"the last {f'{count} {axis}s' if count > 1 else axis}"
        for count, axis in zip(left, axes, strict=True)
        if count
    )
    near = " or ".join(map(_text, cut.nearest(asked)))
    return (
        f"cuts its input into patches of {_text(cut.kernel)} pixels, and would never see {lost} of "
        f"an input of {_text(asked)}. Choose {near} where the size is set: in the options, or in "
        "the crop of the preprocessing."
    )


def _text(sizes: Sizes) -> str:
    return " x ".join(map(str, sizes))


def _cut(kernel: Sizes, stride: Any, padding: Any) -> Cut:
    axes = len(kernel)
    if isinstance(padding, str):
        padding = 0 if padding == "valid" else tuple(size // 2 for size in kernel)
    return Cut(tuple(kernel), _each(stride, axes), _each(padding, axes))


def _convolution(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, *others: Any,
    **named: Any,
) -> tuple[Any, Cut]:  # fmt: skip
    return x, _cut(tuple(weight.shape[2:]), stride, padding)


def _unfold(
    x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> tuple[Any, Cut]:
    return x, _cut(_each(kernel_size, 2), stride, padding)


def _each(value: Any, axes: int) -> Sizes:
    sizes = tuple(value) if isinstance(value, Iterable) else (value,)
    return sizes * axes if len(sizes) == 1 else sizes


_CUTTERS: dict[Any, Callable[..., tuple[Any, Cut]]] = {
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.unfold: _unfold,
}
