"""The interface of engines, with what all engines have in common."""

from __future__ import annotations

import gc
import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from headstrip.embed.engines.network import PixelsNetwork, pixels_network
from headstrip.errors import HeadstripError, PreprocessingError, one_line
from headstrip.system.out_of_memory import OutOfMemoryError, is_out_of_memory

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from headstrip.encoder.encoder import Encoder

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

_SMALLEST_COSINE = {"fp32": 0.9999, "bf16": 0.95}
"""Smallest cosine to eager torch on noise, below which an engine runs another network."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine computes.

    Attributes:
        engine: Name of the engine.
        precision: "fp32" or "bf16".
        batch_size: Images of every batch.
        threads: Threads of the processor for one batch.
        channels_last: Whether torch has the channels last in memory.
        maps: Levels whose maps the engine "torch" gives too, the finest first.
        tokens: Whether it gives the tokens of the last level too.
        maps_dtype: Dtype of both: "float16" or "float32".
    """

    engine: str
    precision: str
    batch_size: int
    threads: int
    channels_last: bool
    maps: tuple[int, ...] = ()
    tokens: bool = False
    maps_dtype: str = "float16"


class Engine(ABC):
    """Runs a network that maps uint8 (batch_size, H, W, C) to float32 (batch_size, output_dim).

    A derived class prepares the network in ``__init__`` and runs one batch in ``compute``.
    ``__init__`` raises ``HeadstripError`` where the engine does not support the precision, the
    device or the network. headstrip reports any other error as "cannot run this network", and
    compares the first embeddings with those of eager torch.

    Attributes:
        slow_to_prepare: Whether ``__init__`` and the first batch take tens of seconds. ``--engine
            auto`` then tries the engine only for runs that are long enough.
        settings: How the engine computes.
        pixels_shape: (batch_size, H, W, C).
        output_dim: Width of an embedding.
        name: Full name of the backbone.
        device: Where the encoder is.
    """

    slow_to_prepare: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, settings: EngineSettings) -> None:
        """Keep the settings and the shapes."""
        self.settings = settings
        channels, height, width = encoder.input_shape
        self.pixels_shape = (settings.batch_size, height, width, channels)
        self.output_dim, self.name = encoder.output_dim, encoder.spec.qualified_name
        self.device = encoder.device

    @abstractmethod
    def compute(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch; several threads may call this at once.

        Args:
            pixels: uint8 array of ``pixels_shape``, contiguous, maybe not writable. Do not change
                it or keep it.

        Returns:
            float32 array (batch_size, output_dim) that the engine does not use again.
        """

    def compute_all(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Embed one batch as ``compute`` does; return the maps that the settings request too."""
        return (self.compute(pixels),)

    def free_memory(self) -> None:
        """Give back the memory that a failed batch, and those before it, left behind."""
        gc.collect()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Check one batch and embed it, as ``compute`` does; see ``outputs``."""
        return self.outputs(pixels)[0]

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Check one batch, and return its embeddings, maps and tokens.

        Args:
            pixels: As for ``compute``.

        Returns:
            The embeddings; then, for each map and at last for the tokens in the settings, an array
            with one entry per image.

        Raises:
            PreprocessingError: The pixels have another shape or dtype.
            OutOfMemoryError: The batch does not fit in memory; its memory is free again.
        """
        if pixels.dtype != np.uint8 or pixels.shape != self.pixels_shape:
            raise PreprocessingError(
                f"A batch must be a uint8 array of shape {self.pixels_shape}, got a {pixels.dtype} "
                f"array of shape {pixels.shape}."
            )
        try:
            return self.compute_all(np.ascontiguousarray(pixels))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside the `except` nothing refers to the failed frames, and so to their memory.
        self.free_memory()
        raise OutOfMemoryError(
            f"{self.settings.batch_size} images at once do not fit in the memory of {self.device}. "
            "Use a smaller batch size."
        )

    def compare(self, reference: Engine) -> None:
        """Run one batch of noise and compare, because a conversion can go wrong without an error.

        Args:
            reference: Eager torch in fp32, for batches of the same shape.

        Raises:
            HeadstripError: The embeddings have another shape, or differ too much.
        """
        noise = np.random.default_rng(0).integers(0, 256, self.pixels_shape, np.uint8)
        found, expected = self(noise), reference(noise)
        cosine = float(cosines(found, expected).min()) if found.shape == expected.shape else 0.0
        if not cosine >= _SMALLEST_COSINE[self.settings.precision]:
            raise HeadstripError(
                f"The engine {self.settings.engine!r} computes other embeddings of {self.name} "
                f"than torch does: for random pixels their cosine similarity is {cosine:.4f}. Use "
                "the engine 'torch'."
            )

    def network_of(self, encoder: Encoder) -> PixelsNetwork:
        """Return the network as a torch module that maps pixels to embeddings.

        It is in eval mode where the encoder is, and shares the encoder's tensors; for "bf16" and
        with ``channels_last`` it has copies of some.
        """
        return pixels_network(
            encoder,
            bf16=self.settings.precision == "bf16",
            channels_last=self.settings.channels_last,
        )

    def exported(self, encoder: Encoder) -> ExportedProgram:
        """Return the network as a graph that another library can convert, in fp32.

        Raises:
            HeadstripError: The encoder is not on the CPU.
        """
        if self.device.type != "cpu":
            raise HeadstripError(
                f"The engine {self.settings.engine!r} computes on the CPU, and the encoder is on "
                f"{self.device}. Call encoder.cpu(), or use the engine 'torch' or 'compile'."
            )
        encoder._check_guards()
        network = pixels_network(encoder, bf16=False, channels_last=True)
        with torch.no_grad():
            return torch.export.export(
                network, (torch.zeros(self.pixels_shape, dtype=torch.uint8),)
            )


def import_extra(engine: str, module: str) -> Any:
    """Import a module that an extra of headstrip installs.

    Raises:
        HeadstripError: It is not installed, or Python cannot import it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise HeadstripError(
            f"The engine {engine!r} needs {module} ({one_line(error)}). "
            f"Run `pip install 'headstrip[{engine}]'`."
        ) from error


def cosines(embeddings: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the cosine of each row (N, dim) to the same row of the reference, as float64 (N,).

    Two rows of zeros have the cosine 1; a row of zeros and another row have the cosine 0.
    """
    left, right = embeddings.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = (left * right).sum(axis=1)
    equal = (left == right).all(axis=1).astype(np.float64)
    found: np.ndarray = np.where(lengths == 0, equal, products / np.where(lengths, lengths, 1))
    return found
