"""The way to a CUDA device and back, for one thread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class Staging:
    """Pinned memory for one batch and its embeddings, and a stream.

    With two threads that have one each, one batch travels while the other is computed.
    """

    def __init__(
        self, pixels: tuple[int, ...], embeddings: tuple[int, ...], device: torch.device
    ) -> None:
        """Set the memory aside: ``pixels`` bytes and ``embeddings`` float32 numbers."""
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pixels = torch.empty(pixels, dtype=torch.uint8, pin_memory=True)
        self._embeddings = torch.empty(embeddings, dtype=torch.float32, pin_memory=True)

    def through(self, network: Callable[[Tensor], Tensor], pixels: np.ndarray) -> np.ndarray:
        """Return what the network makes of a batch, when it is there."""
        self._pixels.numpy()[...] = pixels
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            batch = self._pixels.to(self._device, non_blocking=True)
            self._embeddings.copy_(network(batch), non_blocking=True)
            self._stream.synchronize()
        return self._embeddings.numpy().copy()
