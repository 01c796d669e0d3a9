"""The engine "compile": ``torch.compile`` for one batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from headstrip.embed.engines.eager import Eager

if TYPE_CHECKING:
    from headstrip.embed.engines.engine import EngineSettings
    from headstrip.encoder.encoder import Encoder


class Compiled(Eager):
    """The network as kernels that inductor makes for this processor or GPU."""

    slow_to_prepare: ClassVar[bool] = True

    def __init__(self, encoder: Encoder, settings: EngineSettings) -> None:
        """Make the network; the first batch compiles it."""
        super().__init__(encoder, settings)
        # On the CPU the weights become constants in the layout that the kernels need.
        is_cpu = self.device.type == "cpu"
        self._network = torch.compile(
            self._network, dynamic=False, options={"freezing": True} if is_cpu else None
        )
