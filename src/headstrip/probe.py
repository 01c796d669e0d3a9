"""The width of an embedding, without computing it and without a trace.

The network runs once on the meta device, where tensors have shapes and no memory: a meta twin
stands in for every parameter and buffer meanwhile. Everything that a forward may change is put
back. A network that cannot run there runs once for real, in eval and inference mode.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.nn.parameter import is_lazy

from headstrip.dtypes import computing_dtype
from headstrip.shapes import ByShape, twin

_BATCH = 2
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks",
    "_backward_pre_hooks",
)  # fmt: skip
_REGISTERS = ("_parameters", "_buffers")
# What every module has in its attributes of its own accord.
_OWN = frozenset({
    *_HOOKS, *_REGISTERS, "_modules", "_non_persistent_buffers_set", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
})  # fmt: skip
# Most attributes are of these types, and need no longer look.
_PLAIN = frozenset({bool, int, float, str, type(None)})
_HOLDERS = (Tensor, dict, list, set, tuple, deque)
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


class ProbeError(Exception):
    """A network whose output is no embedding, or that does not take its input."""


def probe_width(backbone: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the width of a backbone's embedding in eval mode.

    Parameters, buffers, training flags, attributes, hooks and the states of the global random
    number generators are afterwards what they were before; of attributes that are containers the
    contents too, however deep. Hooks do not run.

    Args:
        backbone: A network that maps (N, *input_shape) to (N, dim).
        input_shape: Its input without the batch axis.

    Raises:
        ProbeError: The output is not a tensor of shape (N, dim), or the network fails.
    """
    if any(map(is_lazy, (*backbone.parameters(), *backbone.buffers()))):
        raise ProbeError("has lazy parameters, which have no shape before its first batch")
    try:
        output = _run_on_meta(backbone, input_shape)
    except Exception:
        # Whatever stops a network on meta (data-dependent code, an op without a meta kernel),
        # the real forward either shows the width or the true error.
        output = _run_for_real(backbone, input_shape)
    if not isinstance(output, Tensor):
        raise ProbeError(f"gave a {type(output).__name__} instead of a tensor")
    if output.ndim != 2 or output.shape[0] != _BATCH:
        raise ProbeError(
            f"gave shape {tuple(output.shape)} for input {(_BATCH, *input_shape)} "
            "instead of (N, dim)"
        )
    return int(output.shape[1])


def _run_on_meta(backbone: nn.Module, input_shape: tuple[int, ...]) -> Any:
    modules = list(backbone.modules())
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise NotImplementedError("a scripted module keeps its tensors where no twin can stand in")
    dtype = computing_dtype(backbone)
    with _untouched(modules, own=False), torch.no_grad():
        _become_meta(modules)
        x = torch.empty((_BATCH, *input_shape), dtype=dtype, device="meta")
        with ByShape():
            return backbone(x)


def _run_for_real(backbone: nn.Module, input_shape: tuple[int, ...]) -> Any:
    parameter = next((p for p in backbone.parameters() if p.is_floating_point()), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    dtype = computing_dtype(backbone)
    modules = list(backbone.modules())
    with _untouched(modules, own=True), torch.inference_mode(), _values_kept(backbone):
        for module in modules:
            module.__dict__["training"] = False
        try:
            return backbone(torch.zeros((_BATCH, *input_shape), dtype=dtype, device=device))
        except Exception as error:
            text = " ".join(str(error).split())
            raise ProbeError(
                f"failed on input {(_BATCH, *input_shape)} with {type(error).__name__}: {text}"
            ) from error


def _become_meta(modules: list[nn.Module]) -> None:
    """Put meta twins in place of all tensors of a network, and set it to eval.

    What every module has of its own accord is replaced, and a forward changes the copies.
    """
    twins: dict[int, Any] = {}
    for module in modules:
        state = module.__dict__
        for key in _REGISTERS:
            state[key] = {name: _twin(value, twins) for name, value in state[key].items()}
        for key in ("_modules", "_non_persistent_buffers_set"):
            state[key] = state[key].copy()
        held = [(key, value) for key, value in state.items() if type(value) not in _PLAIN]
        state.update((key, _twin(value, twins)) for key, value in held if key not in _OWN)
        state["training"] = False


def _twin(value: Any, twins: dict[int, Any]) -> Any:
    """Return a tensor's meta twin, and of a container one that holds the twins."""
    # Most attributes hold none, and most containers are empty: what a forward puts into those is
    # taken out of them again.
    if not isinstance(value, (Tensor, dict, list, tuple, deque)) or (
        not isinstance(value, Tensor) and not value
    ):
        return value
    if id(value) in twins:
        return twins[id(value)]
    made = value
    if isinstance(value, Tensor):
        made = twin(value)
        if isinstance(value, nn.Parameter):
            made = nn.Parameter(made, requires_grad=False)
    elif isinstance(value, tuple):
        items = [_twin(item, twins) for item in value]
        made = value._make(items) if hasattr(value, "_make") else tuple(items)
    else:
        made = twins[id(value)] = copy.copy(value)
        if isinstance(value, dict):
            _refill(made, {key: _twin(item, twins) for key, item in value.items()})
        else:
            _refill(made, [_twin(item, twins) for item in value])
    twins[id(value)] = made
    return made


@contextmanager
def _untouched(modules: list[nn.Module], *, own: bool) -> Iterator[None]:
    """Suspend hooks, and put back all that a forward may have changed.

    Args:
        modules: Those of the network.
        own: Whether what every module has of its own accord is put back in its contents too.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.callback(_restore, module, _snapshot(module, own))
            for name in _HOOKS:
                module.__dict__[name] = OrderedDict()
        for name in _GLOBAL_HOOKS:
            hooks = getattr(global_hooks, name)
            stack.callback(hooks.update, dict(hooks))
            hooks.clear()
        stack.enter_context(_random_states())
        yield


def _snapshot(module: nn.Module, own: bool) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """Copy a module's attributes, and the contents of the containers among and in them."""
    state = dict(module.__dict__)
    # Hooks are taken out before anything runs.
    left_out = _HOOKS if own else _OWN
    values = [value for key, value in state.items() if key not in left_out]
    containers = [found for found in _within(values) if isinstance(found, (dict, list, set, deque))]
    return state, [
        (found, dict(found) if isinstance(found, dict) else list(found)) for found in containers
    ]


def _restore(module: nn.Module, snapshot: tuple[dict[str, Any], list[tuple[Any, Any]]]) -> None:
    state, containers = snapshot
    for container, contents in containers:
        _refill(container, contents)
    module.__dict__.clear()
    module.__dict__.update(state)


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(contents)
    else:
        container.update(contents)


def _within(values: Iterable[Any]) -> list[Any]:
    """List the tensors and containers among values, those in containers too."""
    found: dict[int, Any] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if type(value) in _PLAIN or not isinstance(value, _HOLDERS) or id(value) in found:
            continue
        found[id(value)] = value
        if not isinstance(value, Tensor):
            waiting += value.values() if isinstance(value, dict) else value
    return list(found.values())


def tensors_within(model: nn.Module) -> list[Tensor]:
    """List the tensors of a network, each once: parameters, buffers, and those in attributes."""
    held = (
        value
        for module in model.modules()
        for value in _within(v for key, v in module.__dict__.items() if key not in _OWN)
    )
    # A scripted module has its own in no attribute.
    owned = (*model.parameters(), *model.buffers(), *held)
    return list({id(value): value for value in owned if isinstance(value, Tensor)}.values())


@contextmanager
def _values_kept(backbone: nn.Module) -> Iterator[None]:
    """Put back the values of all tensors of a network, which a real forward may change in place."""
    kept = [
        (tensor, tensor.detach().clone()) for tensor in tensors_within(backbone)
        if not tensor.is_meta and tensor.layout is torch.strided
    ]  # fmt: skip
    try:
        yield
    finally:
        for tensor, values in kept:
            if not torch.equal(tensor, values):
                tensor.copy_(values)


@contextmanager
def _random_states() -> Iterator[None]:
    """Put back the states of Python's, NumPy's and torch's global generators."""
    python, numpy = random.getstate(), np.random.get_state()
    # Forking every CUDA device warns and starts them; only those in use can be drawn from.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if started else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
