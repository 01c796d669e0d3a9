"""Watch the mapped weights files of an encoder, and copy its parameters into memory.

The parameters of an encoder may be pages of the weights file itself. If another program writes to
that file, every later use of the parameters must raise an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import nn

if TYPE_CHECKING:
    from headstrip.weights.mapping import Guard


class FileWatch:
    """The mapped files of one encoder, until all of its parameters are copies.

    ``check`` compares the size and the time of each file with its earlier size and time. It runs
    each time before the encoder reads its parameters. A caller may save a state dict over the
    mapped file, so headstrip copies the parameters into memory before it returns one.
    """

    def __init__(self, guards: tuple[Guard, ...] = ()) -> None:
        """Watch files.

        Args:
            guards: One per mapped file; empty if all parameters are copies.
        """
        self._guards = guards

    def check(self) -> None:
        """Check that the files are unchanged.

        Raises:
            WeightsError: Another program has written to one of them.
        """
        for guard in self._guards:
            guard.check()

    def copy_into_memory(self, network: nn.Module) -> None:
        """Copy the parameters and buffers of a network that are on the CPU, once.

        Raises:
            WeightsError: As ``check``.
        """
        self.check()
        if self._guards:
            _copy_into_memory(network)
            self._guards = ()

    def copy_before_state_dict(self, encoder: nn.Module, part: nn.Module) -> None:
        """Copy the parameters also before a user takes the state dict of ``part`` or pickles it."""
        if self._guards:
            hook = _CopyBeforeStateDict(self, encoder)
            part.register_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]

    @contextmanager
    def moving(self, network: nn.Module) -> Iterator[None]:
        """Stop watching if the body of the ``with`` moves every parameter out of the files.

        Raises:
            WeightsError: As ``check``.
        """
        self.check()
        before = _addresses(network) if self._guards else set()
        yield
        if self._guards and not before & _addresses(network):
            self._guards = ()


class _CopyBeforeStateDict:
    """A hook that copies mapped parameters before a part of an encoder returns its state dict."""

    def __init__(self, watch: FileWatch, encoder: nn.Module) -> None:
        self._watch = watch
        self._encoder = ref(encoder)

    def __call__(self, part: nn.Module, prefix: str, keep_vars: bool) -> None:
        encoder = self._encoder()
        if encoder is not None:
            self._watch.copy_into_memory(encoder)
            return
        # The encoder is gone. Other parts of it may remain, and their files are still watched.
        own = FileWatch(self._watch._guards)
        own.copy_into_memory(part)
        self._watch = own

    def __reduce__(self) -> tuple[Any, ...]:
        """Put a hook that does nothing into copies and pickles: their tensors are copies."""
        self._watch.check()
        return partial, (itertools.chain,)


def _addresses(network: nn.Module) -> set[int]:
    return {one.data_ptr() for one in network.parameters() if one.device.type == "cpu"}


def _copy_into_memory(network: nn.Module) -> None:
    with torch.inference_mode(False), torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.device.type == "cpu":
                tensor.data = tensor.detach().clone(memory_format=torch.preserve_format)
