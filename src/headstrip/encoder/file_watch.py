"""A network whose parameters may be the pages of a mapped file, which is watched."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self

    from headstrip.weights.mapping import Guard


class Guarded(nn.Module):
    """Stops with an error where somebody wrote to the file that it is mapped from.

    The file's size and time are looked at before all that reads the parameters through it. Whoever
    takes the state dict may be about to save it over that very file: the parameters are copied into
    memory first, and need no file any more.
    """

    def __init__(self, guards: tuple[Guard, ...]) -> None:
        """Have files watched.

        Args:
            guards: One a mapped file; none where all parameters are copies.
        """
        super().__init__()
        self._guards = guards
        self._leaving: tuple[_Leaving, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle has: copies of the tensors, which need no guard."""
        self._check_guards()
        return {**self.__dict__, "_guards": (), "_leaving": ()}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensors by name, as every module does; none of them is mapped any more.

        Raises:
            WeightsError: As ``forward``.
        """
        self._leave_the_file()
        return super().state_dict(*args, **kwargs)

    def _guard(self, *parts: nn.Module | None) -> None:
        """Watch over the parts too, where users take their state dicts or pickle them alone."""
        if not self._guards:
            return
        for part in (part for part in parts if part is not None):
            leaving = _Leaving(self)
            part.register_state_dict_pre_hook(leaving)  # type: ignore[no-untyped-call]
            self._leaving += (leaving,)

    def _leave_the_file(self) -> None:
        """Copy the parameters and buffers into memory, unless that was done before.

        Raises:
            WeightsError: As ``forward``.
        """
        self._check_guards()
        if self._guards:
            _copy_into_memory(self)
            self._need_no_file()

    def _need_no_file(self) -> None:
        self._guards = ()
        for part in self._leaving:
            part.guards = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast everything; what has left the mapped file needs no guard any more."""
        self._check_guards()
        before = self._places() if self._guards else set()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not before & self._places():
            self._need_no_file()
        return self

    def _check_before_computing(self) -> None:
        if self._guards and not torch.compiler.is_compiling():
            self._check_guards()

    def _check_guards(self) -> None:
        for guard in self._guards:
            guard.check()

    def _places(self) -> set[int]:
        return {one.data_ptr() for one in self.parameters() if one.device.type == "cpu"}


class _Leaving:
    """What a part of a mapped encoder does before it gives its state dict away.

    Attributes:
        guards: Those of the encoder, which the part may outlive.
    """

    def __init__(self, encoder: Guarded) -> None:
        self.guards = encoder._guards
        self._encoder = ref(encoder)

    def __call__(self, part: nn.Module, prefix: str, keep_vars: bool) -> None:
        encoder = self._encoder()
        if encoder is not None:
            encoder._leave_the_file()
        elif self.guards:
            self._check()
            _copy_into_memory(part)
            self.guards = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave something that does nothing to copies and pickles, whose tensors are copies."""
        self._check()
        return partial, (itertools.chain,)

    def _check(self) -> None:
        for guard in self.guards:
            guard.check()


def _copy_into_memory(module: nn.Module) -> None:
    """Give the parameters and buffers of a network on the CPU memory of their own."""
    with torch.inference_mode(False), torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.device.type == "cpu":
                tensor.data = tensor.detach().clone(memory_format=torch.preserve_format)
