"""The torchvision transform of a preprocessing, and what it takes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.functional import resize

from headstrip.errors import PreprocessingError

if TYPE_CHECKING:
    from headstrip.preprocessing import Preprocessing

_FOR_TENSORS = ("nearest", "nearest-exact", "bilinear", "bicubic")


class Resize(nn.Module):
    """Resize as torchvision's own presets do, PIL images and tensors alike.

    ``v2.Resize`` computes 8-bit tensors in whole numbers, which gives other pixels.
    """

    def __init__(self, size: list[int], interpolation: str, antialias: bool) -> None:
        """Keep the size, [shorter side] or [height, width], and the filter."""
        super().__init__()
        self.size, self.interpolation, self.antialias = size, interpolation, antialias

    def forward(self, image: Any) -> Any:
        """Map a PIL image, or a tensor (..., C, H, W), to the same kind in the new size.

        Raises:
            PreprocessingError: A tensor is to be resized with a filter that PIL alone has.
        """
        mode = InterpolationMode(self.interpolation)
        if not isinstance(image, Tensor):
            return resize(image, self.size, mode)
        if self.interpolation not in _FOR_TENSORS:
            raise PreprocessingError(
                f"Tensors cannot be resized with interpolation={self.interpolation!r}. "
                f"Pass a PIL image, or use one of {', '.join(_FOR_TENSORS)}."
            )
        flat = image.reshape(-1, *image.shape[-3:])
        flat = resize(flat, self.size, mode, antialias=self.antialias)
        return flat.reshape(*image.shape[:-3], *flat.shape[-3:])

    def extra_repr(self) -> str:
        """Show the size and the filter."""
        return f"{self.size}, {self.interpolation!r}, antialias={self.antialias}"


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


def build_transform(preprocessing: Preprocessing) -> nn.Module:
    """Build the transform that ``Preprocessing.transform`` returns."""
    steps: list[nn.Module] = []
    if preprocessing.resize is not None:
        size = preprocessing.resize
        steps.append(
            Resize(
                [size] if isinstance(size, int) else list(size),
                preprocessing.interpolation,
                preprocessing.antialias,
            )
        )
    steps += [
        v2.CenterCrop(list(preprocessing.crop)),
        v2.PILToTensor(),
        Rescale(preprocessing.rescale),
        v2.Normalize(list(preprocessing.mean), list(preprocessing.std)),
    ]
    if preprocessing.frames is not None:
        steps.append(ClipToVideo())
    transform: nn.Module = v2.Compose(steps)
    return transform
