"""The engine "torch": the network as it is, on the device where the encoder is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headstrip.embed.engines.forward import Forward, Settings
from headstrip.embed.engines.network import pixels_network
from headstrip.embed.engines.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstrip.encoder.encoder import Encoder


class Eager(Forward):
    """Eager torch, in inference mode."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Make a network that shares the encoder's tensors."""
        super().__init__(encoder, settings)
        self._encoder, self._place = encoder, encoder.place()[0]
        self._network: Callable[[Tensor], Tensor] = pixels_network(encoder, settings)
        self._of_thread = threading.local()

    def _compute(self, pixels: np.ndarray) -> np.ndarray:
        # Shared tensors may be a mapped file's pages, which the encoder watches.
        self._encoder._check_guards()
        with (
            torch.inference_mode(),
            torch.autocast(self._place.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            if self._place.type == "cuda":
                return self._staging().through(self._network, pixels)
            embedding = self._network(as_tensor(pixels).to(self._place))
            return embedding.cpu().contiguous().numpy()

    def _staging(self) -> Staging:
        if not hasattr(self._of_thread, "staging"):
            shape = (self.batch_size, self.output_dim)
            self._of_thread.staging = Staging(self.pixels_shape, shape, self._place)
        staging: Staging = self._of_thread.staging
        return staging

    def _free(self) -> None:
        super()._free()
        if self._place.type == "cuda":
            torch.cuda.empty_cache()

    def _chosen(self) -> dict[str, Any]:
        return {"channels_last": self.channels_last}

    def _machine(self) -> str:
        if self._place.type == "cuda":
            return torch.cuda.get_device_name(self._place)
        return super()._machine()

    def _versions(self) -> dict[str, str]:
        return {"torch": str(torch.__version__)}


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Return an array as a tensor, on the same memory if it may be written to."""
    # torch warns of memory that may not.
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
