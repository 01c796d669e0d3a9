"""The last steps of a preprocessing, for a batch of pixels where the network is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from headstrip.images.preprocessing import Preprocessing


class Normalise(nn.Module):
    """Divide, subtract the mean and divide by the standard deviation, as ``transform()`` ends.

    On the CPU every number has the bits that ``Preprocessing.transform()`` gives it. The
    arithmetic runs along rows of interleaved channels, six times as fast as along 3 channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing, *, channels_last: bool = True) -> None:
        """Keep the numbers, once for each pixel of a row.

        Args:
            preprocessing: Whose ``rescale``, ``mean`` and ``std`` are used.
            channels_last: Whether the result is channels last in memory, as the pixels are, which
                copies nothing; otherwise it is contiguous.
        """
        super().__init__()
        self.divisor, self.channels_last = preprocessing.rescale, channels_last
        width = preprocessing.crop[1]
        for name in ("mean", "std"):
            row = torch.tensor(getattr(preprocessing, name), dtype=torch.float32).repeat(width)
            self.register_buffer(name, row, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 (N, H, W, C) to float32 (N, C, H, W)."""
        rows = pixels.flatten(2).to(torch.float32)
        rows = rows.div_(self.divisor).sub_(self.mean).div_(self.std)
        images = rows.view(pixels.shape).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()
