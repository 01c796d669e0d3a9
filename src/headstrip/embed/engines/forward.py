"""What all engines have in common: settings, checks, and what is written down of them."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from headstrip.embed.engines.cosines import cosines
from headstrip.errors import HeadstripError, PreprocessingError
from headstrip.system.out_of_memory import OutOfMemoryError, is_out_of_memory

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


_ALIKE = {"fp32": 0.9999, "bf16": 0.95}
"""Smallest cosine to eager torch in fp32 on noise; what a user allows is looked at elsewhere."""


class Settings(NamedTuple):
    """What ``compile_encoder`` was asked for."""

    engine: str
    precision: str
    batch_size: int
    threads: int
    channels_last: bool


class Forward(ABC):
    """A network that maps uint8 (batch_size, H, W, C) to float32 (batch_size, output_dim).

    Attributes:
        settings: The five that follow.
        engine: "torch", "compile", "openvino" or "onnxruntime".
        precision: "fp32" or "bf16".
        batch_size: Images of every batch.
        threads: Threads of the processor for one batch.
        channels_last: Whether torch has the channels last in memory.
        pixels_shape: (batch_size, H, W, C).
        output_dim: Width of an embedding.
        device: Where the network is, in torch's words.
    """

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Keep the settings and the shapes."""
        self.settings = settings
        self.engine, self.precision, self.batch_size, self.threads, self.channels_last = settings
        channels, height, width = encoder.input_shape
        self.pixels_shape = (self.batch_size, height, width, channels)
        self.output_dim, self.name = encoder.output_dim, encoder.spec.qualified_name
        self.device = str(encoder.place()[0])

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch; threads may call at once.

        Args:
            pixels: uint8 array (batch_size, H, W, C). It is not kept, nor changed.

        Returns:
            float32 array (batch_size, output_dim), the caller's own.

        Raises:
            PreprocessingError: The pixels have another shape or dtype.
            OutOfMemoryError: The batch does not fit; what it took is free again.
        """
        if pixels.dtype != np.uint8 or pixels.shape != self.pixels_shape:
            raise PreprocessingError(
                f"A batch cannot be a {pixels.dtype} array of shape {pixels.shape}. "
                f"Pass a uint8 array of shape {self.pixels_shape}."
            )
        try:
            return self._compute(np.ascontiguousarray(pixels))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Out here nothing holds the frames of what failed, and with them the memory.
        self._free()
        raise OutOfMemoryError(
            f"{self.batch_size} images at once do not fit in the memory of {self.device}. "
            "Use a smaller batch size."
        )

    @abstractmethod
    def _compute(self, pixels: np.ndarray) -> np.ndarray:
        """Embed a batch that has been checked."""

    def _free(self) -> None:
        """Give back what a batch that failed, and those before it, left behind."""
        gc.collect()

    def prove(self, reference: Forward) -> None:
        """Run one batch of noise, and compare: a conversion may go wrong in silence.

        Args:
            reference: Eager torch in fp32, for batches of the same shape.

        Raises:
            HeadstripError: The embeddings have another shape, or are of another network.
        """
        noise = np.random.default_rng(0).integers(0, 256, self.pixels_shape, np.uint8)
        got, wanted = self(noise), reference(noise)
        alike = float(cosines(got, wanted).min()) if got.shape == wanted.shape else 0.0
        if not alike >= _ALIKE[self.precision]:
            raise HeadstripError(
                f"The engine {self.engine!r} makes another network of {self.name}: the cosine of "
                f"its embeddings to those of torch is {alike:.4f} on noise. Use the engine 'torch'."
            )

    def describe(self) -> dict[str, Any]:
        """Return what the bits of an embedding depend on, as plain JSON values.

        ``versions`` has what computes, by distribution, and ``machine`` the kind of processor;
        everything else was chosen.
        """
        return {
            "engine": self.engine, "precision": self.precision, "batch_size": self.batch_size,
            "threads": self.threads, **self._chosen(), "device": self.device.split(":")[0],
            "machine": self._machine(), "versions": self._versions(),
        }  # fmt: skip

    def _chosen(self) -> dict[str, Any]:
        """Return what else was chosen that this engine depends on."""
        return {}

    def _machine(self) -> str:
        import torch

        return str(torch.backends.cpu.get_cpu_capability())

    @abstractmethod
    def _versions(self) -> dict[str, str]:
        """Return the versions of what computes, by distribution."""
