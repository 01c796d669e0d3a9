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
    """Resize as torchvision's own presets and timm do, PIL images and tensors alike.

    ``v2.Resize`` computes 8-bit tensors in whole numbers, which gives other pixels.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Keep what says the new size and the filter."""
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, image: Any) -> Any:
        """Map a PIL image, or a tensor (..., C, H, W), to the same kind in the new size.

        Raises:
            PreprocessingError: A tensor is to be resized with a filter that PIL alone has.
        """
        preprocessing = self.preprocessing
        mode = InterpolationMode(preprocessing.interpolation)
        size = list(preprocessing.resized(*v2.functional.get_size(image)))
        if not isinstance(image, Tensor):
            return resize(image, size, mode)
        if preprocessing.interpolation not in _FOR_TENSORS:
            raise PreprocessingError(
                f"Tensors cannot be resized with interpolation={preprocessing.interpolation!r}. "
                f"Pass a PIL image, or use one of {', '.join(_FOR_TENSORS)}."
            )
        flat = image.reshape(-1, *image.shape[-3:])
        flat = resize(flat, size, mode, antialias=preprocessing.antialias)
        return flat.reshape(*image.shape[:-3], *flat.shape[-3:])

    def extra_repr(self) -> str:
        """Show the size, how it is fitted, and the filter."""
        wanted = self.preprocessing
        size = [wanted.resize] if isinstance(wanted.resize, int) else list(wanted.resize or ())
        fit = "" if wanted.fit == "squash" else f", {wanted.fit!r}"
        return f"{size}{fit}, {wanted.interpolation!r}, antialias={wanted.antialias}"


class Pad(nn.Module):
    """Put a border of one colour around an image that is smaller than the crop.

    An odd pixel goes to the right and to the bottom, as in torchvision's crop.
    """

    def __init__(self, size: tuple[int, int], fill: tuple[int, ...]) -> None:
        """Keep the height and width to reach, and the border's pixel value of each channel."""
        super().__init__()
        self.size, self.fill = size, fill

    def forward(self, image: Any) -> Any:
        """Map a PIL image, or a tensor (..., C, H, W), to the same kind, of that size or more."""
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


def build_transform(preprocessing: Preprocessing) -> nn.Module:
    """Build the transform that ``Preprocessing.transform`` returns."""
    steps: list[nn.Module] = []
    if preprocessing.resize is not None:
        steps.append(Resize(preprocessing))
    if preprocessing.fill is not None:
        steps.append(Pad(preprocessing.crop, preprocessing.fill))
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
