"""Find the width of an embedding without computing it, and without changing the network.

The network runs once on the meta device, where tensors have shapes but no memory: each parameter
and buffer is replaced by a meta tensor during the run. Afterwards everything that a forward pass
may change is restored. A network that cannot run on meta runs once for real, in eval and inference
mode.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.nn.parameter import is_lazy

from headstrip.network.dtypes import computing_dtype
from headstrip.network.meta_ops import ByShape, twin
from headstrip.system.arguments import type_of

BATCH = 2
"""Number of inputs in the batch for measuring the width."""
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_REGISTERS = ("_parameters", "_buffers")
# Attributes that nn.Module itself defines.
_MODULE_STATE = frozenset(
    {
        *_HOOKS,
        *_REGISTERS,
        "_modules",
        "_non_persistent_buffers_set",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    }
)
# Most attributes have these types, which cannot contain tensors.
_PLAIN = frozenset({bool, int, float, str, type(None)})
_CONTAINERS = (Tensor, dict, list, set, tuple, deque)
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


class ProbeError(Exception):
    """The output of a network is not an embedding, or the network does not take its input."""


class HeadError(Exception):
    """A head does not give the network's logits, or does not take the backbone's output."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one forward pass of a backbone and its head.

    Attributes:
        output: Output of the backbone.
        logits: Output of the head; None without a head.
        passed: Outputs of the watched module, one per call.
    """

    output: Any
    logits: Any
    passed: tuple[Any, ...]


def probe_width(backbone: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the width of a backbone's embedding in eval mode.

    Afterwards parameters, buffers, training flags, attributes (with the contents of containers, at
    any depth), hooks and the states of the global random number generators are what they were
    before. Hooks do not run.

    Args:
        backbone: A network that maps (N, *input_shape) to (N, dim).
        input_shape: Input without the batch axis.

    Raises:
        ProbeError: The output is not a tensor of shape (N, dim), or the network fails.
    """
    return width_of(run_once(backbone, input_shape).output, input_shape)


def width_of(output: Any, input_shape: tuple[int, ...]) -> int:
    """Return the width of a backbone's output.

    Raises:
        ProbeError: The output is not a tensor of shape (N, dim).
    """
    if not isinstance(output, Tensor):
        raise ProbeError(f"gave {type_of(output)} instead of a tensor")
    if not _is_embedding(output):
        raise ProbeError(
            f"gave shape {tuple(output.shape)} for input {(BATCH, *input_shape)} "
            "instead of (N, dim)"
        )
    return int(output.shape[1])


def run_once(
    backbone: nn.Module,
    input_shape: tuple[int, ...],
    *,
    head: nn.Module | None = None,
    watched: nn.Module | None = None,
    watch: AbstractContextManager[Any] | None = None,
) -> Run:
    """Run a network once in eval mode, on the meta device if possible, and leave it unchanged.

    Args:
        backbone: The network.
        input_shape: Input without the batch axis.
        head: Module to run on the output, if that is an embedding.
        watched: An ``nn.Identity`` in the network whose outputs are recorded.
        watch: A torch mode to run the network in, such as a ``PatchWatch``.

    Raises:
        ProbeError: The network fails, or has lazy parameters.
        HeadError: The head fails.
    """
    if any(map(is_lazy, (*backbone.parameters(), *backbone.buffers()))):
        raise ProbeError("has lazy parameters, which have no shape before its first batch")
    try:
        return run_on_meta(backbone, input_shape, head=head, watched=watched, watch=watch)
    except Exception:
        # Networks fail on meta for many reasons: data-dependent code, an op without a meta kernel.
        # The real forward pass then gives the width or the real error.
        return _run_for_real(backbone, input_shape, head, watched, watch)


def run_on_meta(
    backbone: nn.Module,
    input_shape: tuple[int, ...],
    *,
    head: nn.Module | None = None,
    watched: nn.Module | None = None,
    watch: AbstractContextManager[Any] | None = None,
) -> Run:
    """Run a network on the meta device, like ``run_once``, and raise any error that it raises."""
    modules = _modules(backbone, head)
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise NotImplementedError(
            "a scripted module keeps its tensors where they cannot be replaced"
        )
    dtype = computing_dtype(backbone)
    with _restored(modules, module_state=False), torch.no_grad():
        _become_meta(modules)
        passed = _record_outputs(watched)
        x = torch.empty((BATCH, *input_shape), dtype=dtype, device="meta")
        with ByShape(), watch or nullcontext():
            output = backbone(x)
            return Run(output, _logits(head, output), tuple(passed))


def _run_for_real(
    backbone: nn.Module,
    input_shape: tuple[int, ...],
    head: nn.Module | None,
    watched: nn.Module | None,
    watch: AbstractContextManager[Any] | None,
) -> Run:
    parameter = next((p for p in backbone.parameters() if p.is_floating_point()), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    dtype = computing_dtype(backbone)
    modules = _modules(backbone, head)
    whole = nn.ModuleList([backbone] if head is None else [backbone, head])
    with _restored(modules, module_state=True), torch.inference_mode(), _values_restored(whole):
        for module in modules:
            module.__dict__["training"] = False
        passed = _record_outputs(watched)
        try:
            with watch or nullcontext():
                output = backbone(torch.zeros((BATCH, *input_shape), dtype=dtype, device=device))
        except Exception as error:
            raise ProbeError(
                f"failed on input {(BATCH, *input_shape)} with {_describe(error)}"
            ) from error
        try:
            return Run(output, _logits(head, output), tuple(passed))
        except Exception as error:
            raise HeadError(
                f"fails on the backbone's output of shape {tuple(output.shape)}: {_describe(error)}"
            ) from error


def _modules(*networks: nn.Module | None) -> list[nn.Module]:
    """Return the modules of several networks, each once."""
    whole = (one for network in networks if network is not None for one in network.modules())
    return list(dict.fromkeys(whole))


def _logits(head: nn.Module | None, output: Any) -> Any:
    # `width_of` raises the error for an output that is not an embedding.
    return head(output) if head is not None and _is_embedding(output) else None


def _is_embedding(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == BATCH


def _record_outputs(module: nn.Module | None) -> list[Any]:
    """Make an ``nn.Identity`` record its outputs in the returned list, until it is restored."""
    passed: list[Any] = []

    def forward(value: Any) -> Any:
        passed.append(value)
        return value

    if module is not None:
        module.__dict__["forward"] = forward
    return passed


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _become_meta(modules: list[nn.Module]) -> None:
    """Replace all tensors of a network by meta tensors, and set it to eval mode.

    The attributes that nn.Module defines are copied, so a forward pass changes the copies.
    """
    twins: dict[int, Any] = {}
    for module in modules:
        state = module.__dict__
        for key in _REGISTERS:
            state[key] = {name: _twin(value, twins) for name, value in state[key].items()}
        for key in ("_modules", "_non_persistent_buffers_set"):
            state[key] = state[key].copy()
        held = [(key, value) for key, value in state.items() if type(value) not in _PLAIN]
        state.update((key, _twin(value, twins)) for key, value in held if key not in _MODULE_STATE)
        state["training"] = False


def _twin(value: Any, twins: dict[int, Any]) -> Any:
    """Return the meta tensor for a tensor, or a copy of a container with meta tensors in it."""
    # Empty containers need no copy: `restore` empties them again.
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
def _restored(modules: list[nn.Module], *, module_state: bool) -> Iterator[None]:
    """Suspend hooks during the body, then restore all that a forward pass may have changed.

    Args:
        modules: All modules of the network.
        module_state: Whether to restore the contents of the containers that nn.Module defines.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.callback(restore, module, snapshot(module, module_state=module_state))
            for name in _HOOKS:
                module.__dict__[name] = OrderedDict()
        for name in _GLOBAL_HOOKS:
            hooks = getattr(global_hooks, name)
            stack.callback(hooks.update, dict(hooks))
            hooks.clear()
        stack.enter_context(_random_states())
        yield


Snapshot = tuple[dict[str, Any], list[tuple[Any, Any]]]


def snapshot(module: nn.Module, *, module_state: bool) -> Snapshot:
    """Copy a module's attributes, and the contents of containers in them at any depth."""
    state = dict(module.__dict__)
    # `_restored` replaces the hooks before anything runs.
    left_out = _HOOKS if module_state else _MODULE_STATE
    values = [value for key, value in state.items() if key not in left_out]
    containers = [found for found in _within(values) if isinstance(found, (dict, list, set, deque))]
    return state, [
        (found, dict(found) if isinstance(found, dict) else list(found)) for found in containers
    ]


def restore(module: nn.Module, taken: Snapshot) -> None:
    """Restore the attributes that a module had when the snapshot was taken."""
    state, containers = taken
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
    """Return the tensors and containers among values, and those inside containers."""
    found: dict[int, Any] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if type(value) in _PLAIN or not isinstance(value, _CONTAINERS) or id(value) in found:
            continue
        found[id(value)] = value
        if not isinstance(value, Tensor):
            waiting += value.values() if isinstance(value, dict) else value
    return list(found.values())


def tensors_within(model: nn.Module) -> list[Tensor]:
    """Return all tensors of a network, each once: parameters, buffers, and those in attributes."""
    held = (
        value
        for module in model.modules()
        for value in _within(v for key, v in module.__dict__.items() if key not in _MODULE_STATE)
    )
    # The tensors of a scripted module are in no attribute.
    owned = (*model.parameters(), *model.buffers(), *held)
    return list({id(value): value for value in owned if isinstance(value, Tensor)}.values())


@contextmanager
def _values_restored(model: nn.Module) -> Iterator[None]:
    """Restore the values of all tensors, which a real forward pass may change in place."""
    kept = [
        (tensor, tensor.detach().clone())
        for tensor in tensors_within(model)
        if not tensor.is_meta and tensor.layout is torch.strided
    ]
    try:
        yield
    finally:
        for tensor, values in kept:
            if not torch.equal(tensor, values):
                tensor.copy_(values)


@contextmanager
def _random_states() -> Iterator[None]:
    """Restore the states of Python's, NumPy's and torch's global generators."""
    python, numpy = random.getstate(), np.random.get_state()
    # Saving the state of an unused CUDA device would start it and warn.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if started else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
