"""Build networks without the values that a weights file will set.

A parameter loses its memory when a module registers it, and initialisers skip it. Buffers, and
constants that a constructor computes, are made as usual, so they are right whether a state dict has
them or not.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from headstrip.network.meta_ops import NoValues, twin
from headstrip.network.width import tensors_within

_collecting = threading.Lock()
_holders = 0
_was_enabled = False


class Replaced:
    """The parameters that lost their memory, and those that replaced them."""

    def __init__(self) -> None:
        """Start without any."""
        # Both stay alive, so that no other tensor gets the id of an original.
        self.pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def is_held(self, model: nn.Module) -> bool:
        """Whether anything else holds one of these parameters, or its memory.

        This object and the modules of a network do not count. A closure, a list, or an unregistered
        module would continue to use a tensor that no weights file ever fills.
        """
        ours = {id(one) for one in model.parameters()}
        # A pair that nothing else holds: its reference counts depend on the version of Python.
        alone = _counts({0: (object(), object())})[0]
        for made, *counts in _counts(self.pairs):
            if counts[0] > alone[1] or (made not in ours and counts[1] > alone[2]):
                return True
        memory = {one.untyped_storage().data_ptr() for one, _ in self.pairs.values()} - {0}
        return any(
            one.layout is torch.strided and one.untyped_storage().data_ptr() in memory
            for one in tensors_within(model)
            if not one.is_meta
        )


def _counts(pairs: Mapping[int, tuple[object, object]]) -> list[tuple[int, int, int]]:
    """Return, for each pair, the id of the second and how many references both have."""
    return [
        (id(made), sys.getrefcount(original), sys.getrefcount(made))
        for original, made in pairs.values()
    ]


def share_memory(model: nn.Module) -> bool:
    """Whether two parameters that have no memory yet are views of one storage."""
    places = [one.untyped_storage()._cdata for one in model.parameters() if one.is_meta]
    return len(places) != len(set(places))


@contextmanager
def meta_parameters(replaced: Replaced) -> Iterator[None]:
    """Make the modules that this thread builds keep parameters without memory.

    A parameter that two modules share stays shared.

    Args:
        replaced: Records the parameters that are replaced.
    """
    thread = threading.get_ident()
    pairs = replaced.pairs

    def register(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != thread or parameter is None or parameter.is_meta:
            return None
        # A subclass (a lazy or a quantised parameter) has more to it than its values.
        if type(parameter) is not nn.Parameter:
            return None
        if id(parameter) not in pairs:
            made = nn.Parameter(twin(parameter), requires_grad=parameter.requires_grad)
            pairs[id(parameter)] = parameter, made
        return pairs[id(parameter)][1]

    # torch documents that the hook may return a parameter, but its annotation does not allow it.
    handle = register_module_parameter_registration_hook(register)  # type: ignore[arg-type]
    try:
        with NoValues():
            yield
    finally:
        handle.remove()


@contextmanager
def collector_held_back() -> Iterator[None]:
    """Keep the cyclic garbage collector from running: with torch loaded a full run takes 0.2 s."""
    global _holders, _was_enabled
    with _collecting:
        if not _holders:
            _was_enabled = gc.isenabled()
            gc.disable()
        _holders += 1
    try:
        yield
    finally:
        with _collecting:
            _holders -= 1
            if not _holders and _was_enabled:
                gc.enable()
