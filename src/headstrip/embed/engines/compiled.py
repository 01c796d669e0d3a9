"""The engine "compile": ``torch.compile`` for one size of batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from headstrip.embed.engines.eager import Eager
from headstrip.errors import HeadstripError, one_line
from headstrip.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from headstrip.embed.engines.forward import Forward, Settings
    from headstrip.encoder.encoder import Encoder


class Compiled(Eager):
    """What inductor makes of the network: kernels for this processor or this GPU."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Make the network; ``prove`` compiles it."""
        super().__init__(encoder, settings)
        # On the CPU the weights become constants, laid out as the kernels want them.
        freezing = self._place.type == "cpu"
        self._network = torch.compile(
            self._network, dynamic=False, options={"freezing": True} if freezing else None
        )

    def prove(self, reference: Forward) -> None:
        """Compile, for as many threads as each batch has.

        Raises:
            HeadstripError: It cannot be compiled, or becomes another network.
        """
        threads = torch.get_num_threads()
        # The kernels have the number of threads in them; another one would compile anew.
        torch.set_num_threads(self.threads)
        try:
            super().prove(reference)
        except HeadstripError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise HeadstripError(
                f"torch.compile cannot take over {self.name}: {one_line(error)[:300]} "
                "Use the engine 'torch'."
            ) from error
        finally:
            torch.set_num_threads(threads)
