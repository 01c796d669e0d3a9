"""The engines "torch" and "compile": torch, on the device of the encoder."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from headstrip.embed.engines.engine import Engine, EngineSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstrip.encoder.encoder import Encoder


class Eager(Engine):
    """Eager torch, in inference mode."""

    def __init__(self, encoder: Encoder, settings: EngineSettings) -> None:
        """Make a network that shares the encoder's tensors."""
        super().__init__(encoder, settings)
        self._encoder = encoder
        self._network: Callable[[Tensor], Tensor] = self.network_of(encoder)
        self._of_thread = threading.local()

    def compute(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch."""
        # Shared tensors can be pages of a mapped file, which the encoder watches.
        self._encoder._check_guards()
        is_bf16 = self.settings.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16),
        ):
            if self.device.type == "cuda":
                return self._buffers().run(self._network, pixels)
            # torch warns about memory that is not writable.
            batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
            return self._network(batch.to(self.device)).cpu().contiguous().numpy()

    def _buffers(self) -> _CudaBuffers:
        if not hasattr(self._of_thread, "buffers"):
            shape = (self.settings.batch_size, self.output_dim)
            self._of_thread.buffers = _CudaBuffers(self.pixels_shape, shape, self.device)
        buffers: _CudaBuffers = self._of_thread.buffers
        return buffers

    def free_memory(self) -> None:
        """Give back the memory of a failed batch, that of the GPU too."""
        super().free_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Compiled(Eager):
    """The network as kernels that inductor makes for this processor or GPU, for one batch size."""

    slow_to_prepare: ClassVar[bool] = True

    def __init__(self, encoder: Encoder, settings: EngineSettings) -> None:
        """Make the network; the first batch compiles it."""
        super().__init__(encoder, settings)
        # On the CPU the weights become constants in the layout that the kernels need.
        is_cpu = self.device.type == "cpu"
        self._network = torch.compile(
            self._network, dynamic=False, options={"freezing": True} if is_cpu else None
        )


class _CudaBuffers:
    """Pinned memory for one batch and its embeddings, and a CUDA stream, for one thread.

    With two such threads one batch travels while the GPU computes the other.
    """

    def __init__(
        self, pixels: tuple[int, ...], embeddings: tuple[int, ...], device: torch.device
    ) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pixels = torch.empty(pixels, dtype=torch.uint8, pin_memory=True)
        self._embeddings = torch.empty(embeddings, dtype=torch.float32, pin_memory=True)

    def run(self, network: Callable[[Tensor], Tensor], pixels: np.ndarray) -> np.ndarray:
        """Send a batch through the network and wait for its embeddings."""
        self._pixels.numpy()[...] = pixels
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            batch = self._pixels.to(self._device, non_blocking=True)
            self._embeddings.copy_(network(batch), non_blocking=True)
            self._stream.synchronize()
        return self._embeddings.numpy().copy()
