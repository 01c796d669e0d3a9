"""Detect pixels that a network ignores because its patches do not divide the input size.

A convolution with a wide stride cuts the image into patches and ignores the rows and columns after
the last complete patch. A network that pads its input first ignores nothing.
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
"""Smallest stride that counts as cutting patches: a stride of 2 ignores one row at most."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a layer cuts an image into patches, with one number per axis.

    Attributes:
        kernel: Pixels of a patch.
        stride: Pixels from one patch to the next.
        padding: Pixels that the layer adds on both sides.
    """

    kernel: Sizes
    stride: Sizes
    padding: Sizes

    def left_out(self, sizes: Sizes) -> Sizes:
        """Return the number of pixels at the end of each axis that are in no patch."""
        return tuple(
            max(0, (size + 2 * padding - kernel) % stride - padding)
            if stride >= _LEAST_STRIDE
            else 0
            for size, kernel, stride, padding in zip(
                sizes, self.kernel, self.stride, self.padding, strict=True
            )
        )

    def nearest(self, sizes: Sizes) -> list[Sizes]:
        """Return the nearest sizes without ignored pixels, the smaller first."""
        found = []
        for step in (-1, 1):
            near = list(sizes)
            while any(left := self.left_out(tuple(near))):
                near = [size + step * bool(lost) for size, lost in zip(near, left, strict=True)]
            found.append(tuple(near))
        return [near for near in found if all(map(int.__ge__, near, self.kernel))]


class PatchWatch(TorchFunctionMode):
    """A torch mode that records how a network cuts its input into patches.

    Attributes:
        cuts: For each layer that takes the image, how it cuts it, and the size of the image there.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        """Create the mode for an input shape without the batch axis: channels, then sizes."""
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
        """Record the cut of one call, and run the call."""
        kwargs = kwargs or {}
        describe = _CUTTERS.get(func)
        if describe is not None:
            self._note(*describe(*args, **kwargs))
        return func(*args, **kwargs)

    def _note(self, x: Any, cut: Cut) -> None:
        sizes = tuple(x.shape[2:])
        if len(sizes) != len(self._sizes) or x.shape[1] != self._channels:
            return
        # This is the image itself, or the padded image.
        if all(size >= whole for size, whole in zip(sizes, self._sizes, strict=True)):
            self.cuts.append((cut, sizes))

    def look_at(self, network: nn.Module) -> None:
        """Record how the layers of a network that failed would have cut the image."""
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.in_channels == self._channels:
                cut = _cut(module.kernel_size, module.stride, module.padding)
                if len(cut.kernel) == len(self._sizes):
                    self.cuts.append((cut, self._sizes))


def unseen(watch: PatchWatch, input_shape: tuple[int, ...]) -> str | None:
    """Describe which pixels of its input a network ignores, and suggest other sizes.

    Args:
        watch: The mode in which the network ran.
        input_shape: Input without the batch axis.

    Returns:
        Two sentences without a subject, or None if the network uses all pixels.
    """
    requested = tuple(input_shape[1:])
    for cut, sizes in watch.cuts:
        # Padding that the network added after the image is ignored first.
        added = [size - whole for size, whole in zip(sizes, requested, strict=True)]
        left = [max(0, lost - more) for lost, more in zip(cut.left_out(sizes), added, strict=True)]
        if any(left):
            return describe(cut, requested, tuple(left))
    return None


def describe(cut: Cut, requested: Sizes, left: Sizes) -> str:
    """Describe what a cut ignores of an input of the requested size."""
    axes = ["frame", "row", "column"][-len(requested) :]
    lost = " and ".join(
        f"the last {f'{count} {axis}s' if count > 1 else axis}"
        for count, axis in zip(left, axes, strict=True)
        if count
    )
    near = " or ".join(map(_text, cut.nearest(requested)))
    return (
        f"cuts its input into patches of {_text(cut.kernel)} pixels, and would never see {lost} of "
        f"an input of {_text(requested)}. Choose {near} where the size is set: in the options, or "
        "in the crop of the preprocessing."
    )


def _text(sizes: Sizes) -> str:
    return " x ".join(map(str, sizes))


def _cut(kernel: Sizes, stride: Any, padding: Any) -> Cut:
    axes = len(kernel)
    if isinstance(padding, str):
        padding = 0 if padding == "valid" else tuple(size // 2 for size in kernel)
    return Cut(tuple(kernel), _each(stride, axes), _each(padding, axes))


def _convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    *others: Any,
    **named: Any,
) -> tuple[Any, Cut]:
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
