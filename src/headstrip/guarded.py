"""A network whose parameters may be the pages of a mapped file, which is watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self

    from headstrip.weights.mapping import Guard


class Guarded(nn.Module):
    """Stops with an error where another process wrote to the file that it is mapped from.

    The file's size and time are looked at before all that reads the parameters through it.
    """

    def __init__(self, guards: tuple[Guard, ...]) -> None:
        """Have files watched.

        Args:
            guards: One a mapped file; none where all parameters are copies.
        """
        super().__init__()
        self._guards = guards

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle has: copies of the tensors, which need no guard."""
        self._check_guards()
        return {**self.__dict__, "_guards": ()}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensors by name, as every module does.

        Raises:
            WeightsError: As ``forward``.
        """
        self._check_guards()
        return super().state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast everything; what has left the mapped file needs no guard any more."""
        self._check_guards()
        before = self._places() if self._guards else set()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not before & self._places():
            self._guards = ()
        return self

    def _check_before_computing(self) -> None:
        if self._guards and not torch.compiler.is_compiling():
            self._check_guards()

    def _check_guards(self) -> None:
        for guard in self._guards:
            guard.check()

    def _places(self) -> set[int]:
        return {one.data_ptr() for one in self.parameters() if one.device.type == "cpu"}
