"""The steps of the transform that torchvision's own classes compute in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.functional import resize

from headstrip.errors import PreprocessingError

FOR_TENSORS = ("nearest", "nearest-exact", "bilinear", "bicubic")
"""The filters with which torchvision resizes tensors."""


class Resize(nn.Module):
    """Resize as torchvision's own presets and timm do, PIL images and tensors alike.

    ``v2.Resize`` computes 8-bit tensors with integers, which gives other pixels.
    """

    def __init__(
        self,
        size_of: Callable[[int, int], tuple[int, int]],
        interpolation: str,
        antialias: bool,
        shown: str,
    ) -> None:
        """Keep the new size and the filter.

        Args:
            size_of: Maps the height and width of an image to the new ones.
            interpolation: Value of torchvision's ``InterpolationMode``.
            antialias: Whether tensors get a low-pass filter first, as PIL images always do.
            shown: The new size for ``repr``.
        """
        super().__init__()
        self.size_of, self.interpolation = size_of, interpolation
        self.antialias, self.shown = antialias, shown

    def forward(self, image: Any) -> Any:
        """Map a PIL image, or a tensor (..., C, H, W), to the same kind in the new size.

        Raises:
            PreprocessingError: The image is a tensor, and only PIL has the filter.
        """
        mode = InterpolationMode(self.interpolation)
        size = list(self.size_of(*v2.functional.get_size(image)))
        if not isinstance(image, Tensor):
            return resize(image, size, mode)
        if self.interpolation not in FOR_TENSORS:
            raise PreprocessingError(
                f"Tensors cannot be resized with interpolation={self.interpolation!r}. "
                f"Pass a PIL image, or use one of {', '.join(FOR_TENSORS)}."
            )
        flat = image.reshape(-1, *image.shape[-3:])
        flat = resize(flat, size, mode, antialias=self.antialias)
        return flat.reshape(*image.shape[:-3], *flat.shape[-3:])

    def extra_repr(self) -> str:
        """Show the size, how it is fitted, and the filter."""
        return f"{self.shown}, {self.interpolation!r}, antialias={self.antialias}"


class Pad(nn.Module):
    """Put a border of one colour around an image that is smaller than the crop.

    An odd pixel goes to the right and below, as in torchvision's crop.
    """

    def __init__(self, size: tuple[int, int], fill: tuple[int, ...]) -> None:
        """Keep the height and width to reach, and the border's pixel value of each channel."""
        super().__init__()
        self.size, self.fill = size, fill

    def forward(self, image: Any) -> Any:
        """Map a PIL image or a tensor (..., C, H, W) to the same kind, of at least that size."""
        height, width = v2.functional.get_size(image)
        lower, wider = max(0, self.size[0] - height), max(0, self.size[1] - width)
        if not lower and not wider:
            return image
        border = [wider // 2, lower // 2, wider - wider // 2, lower - lower // 2]
        return v2.functional.pad(image, border, fill=list(self.fill))

    def extra_repr(self) -> str:
        """Show the size and the border's pixel value."""
        return f"{list(self.size)}, fill={list(self.fill)}"


class Rescale(nn.Module):
    """Divide pixel values, as torchvision's and timm's own pipelines do.

    ``v2.ToDtype(scale=True)`` multiplies by the reciprocal instead, which gives other last bits.
    """

    def __init__(self, divisor: float) -> None:
        """Keep the divisor, 255 for 8-bit pixels."""
        super().__init__()
        self.divisor = divisor

    def forward(self, image: Tensor) -> Tensor:
        """Map a tensor of any dtype to float32, divided."""
        return image.to(torch.float32) / self.divisor

    def extra_repr(self) -> str:
        """Show the divisor."""
        return f"divisor={self.divisor}"


class ClipToVideo(nn.Module):
    """Put the channels of a clip first: (..., T, C, H, W) to (..., C, T, H, W)."""

    def forward(self, clip: Tensor) -> Tensor:
        """Swap the axes of time and channels."""
        return clip.transpose(-4, -3)
