"""The engines "torch" and "compile": torch, on the device of the encoder."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from headstrip.embed.engines.engine import Engine, EngineSettings
from headstrip.embed.engines.network import DenseNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstrip.encoder.encoder import Encoder


class Eager(Engine):
    """Eager torch, in inference mode."""

    def __init__(self, encoder: Encoder, settings: EngineSettings) -> None:
        """Make a network that shares the encoder's tensors."""
        super().__init__(encoder, settings)
        self._encoder = encoder
        network = self.network_of(encoder)
        self._network: Callable[[Tensor], Tensor | tuple[Tensor, ...]] = network
        if settings.maps or settings.tokens:
            self._network = DenseNetwork(
                network,
                encoder,
                maps=settings.maps,
                tokens=settings.tokens,
                dtype=torch.float16 if settings.maps_dtype == "float16" else torch.float32,
            ).eval()
        self._of_thread = threading.local()

    def compute(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch."""
        return self.compute_all(pixels)[0]

    def compute_all(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Embed one batch, and return the maps and tokens in the settings too."""
        # Shared tensors can be pages of a mapped file, which the encoder watches.
        self._encoder._check_guards()
        is_bf16 = self.settings.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16),
        ):
            if self.device.type == "cuda":
                return self._buffers().run(self._run, pixels)
            # torch warns about memory that is not writable.
            batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
            outputs = self._run(batch.to(self.device))
            return tuple(one.cpu().contiguous().numpy() for one in outputs)

    def _run(self, batch: Tensor) -> tuple[Tensor, ...]:
        found = self._network(batch)
        return found if isinstance(found, tuple) else (found,)

    def _buffers(self) -> _CudaBuffers:
        if not hasattr(self._of_thread, "buffers"):
            self._of_thread.buffers = _CudaBuffers(self.pixels_shape, self.device)
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
    """Pinned memory for one batch and its outputs, and a CUDA stream, for one thread.

    With two such threads one batch travels while the GPU computes the other.
    """

    def __init__(self, pixels: tuple[int, ...], device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pixels = torch.empty(pixels, dtype=torch.uint8, pin_memory=True)
        self._outputs: list[Tensor] = []

    def run(
        self, network: Callable[[Tensor], tuple[Tensor, ...]], pixels: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Send a batch through the network and wait for its outputs."""
        self._pixels.numpy()[...] = pixels
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            batch = self._pixels.to(self._device, non_blocking=True)
            found = network(batch)
            # All batches have one shape, and so have their outputs.
            self._outputs = self._outputs or [
                torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in found
            ]
            for pinned, one in zip(self._outputs, found, strict=True):
                pinned.copy_(one, non_blocking=True)
            self._stream.synchronize()
        return tuple(pinned.numpy().copy() for pinned in self._outputs)
