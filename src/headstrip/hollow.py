"""Construction without the values that a weights file brings.

Parameters lose their memory the moment a module takes them, and initialisers pass over them.
Buffers, and constants that a constructor computes, are made as ever: they come out right whether
a state dict has them or not.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from headstrip.shapes import NoValues, twin

_collecting = threading.Lock()
_holders = 0
_was_enabled = False


@contextmanager
def hollow_parameters() -> Iterator[None]:
    """Have modules that this thread makes keep parameters without memory.

    A parameter that two modules share stays one.
    """
    thread = threading.get_ident()
    # Both, so that the id of an original is not given to another tensor meanwhile.
    hollow: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def register(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != thread or parameter is None or parameter.is_meta:
            return None
        # A subclass (a lazy or a quantised parameter) has more to it than its values.
        if type(parameter) is not nn.Parameter:
            return None
        if id(parameter) not in hollow:
            made = nn.Parameter(twin(parameter), requires_grad=parameter.requires_grad)
            hollow[id(parameter)] = parameter, made
        return hollow[id(parameter)][1]

    # Its annotation has no result, and its documentation one.
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
