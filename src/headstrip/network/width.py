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

BATCH = 2
"""Inputs in the batch with which a network is probed."""
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


class HeadError(Exception):
    """A head that does not take what its backbone gives."""


@dataclass(frozen=True, slots=True)
class Run:
    """One forward of a backbone, and of the head on what came out.

    Attributes:
        output: What the backbone gave.
        logits: What the head gave of it; None without a head.
        passed: What the watched module passed on, call by call.
    """

    output: Any
    logits: Any
    passed: tuple[Any, ...]


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
    return width_of(run_once(backbone, input_shape).output, input_shape)


def width_of(output: Any, input_shape: tuple[int, ...]) -> int:
    """Return the width of what a backbone gave.

    Raises:
        ProbeError: It is not a tensor of shape (N, dim).
    """
    if not isinstance(output, Tensor):
        raise ProbeError(f"gave a {type(output).__name__} instead of a tensor")
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
    """Run a network once in eval mode, without memory where that is possible, without a trace.

    Args:
        backbone: The network.
        input_shape: Its input without the batch axis.
        head: What runs on its output then, if that is a tensor.
        watched: An ``nn.Identity`` in the network whose outputs are noted.
        watch: A mode of torch's that the network runs in, such as a ``PatchWatch``.

    Raises:
        ProbeError: The network fails, or has lazy parameters.
        HeadError: The head fails.
    """
    if any(map(is_lazy, (*backbone.parameters(), *backbone.buffers()))):
        raise ProbeError("has lazy parameters, which have no shape before its first batch")
    try:
        return run_on_meta(backbone, input_shape, head=head, watched=watched, watch=watch)
    except Exception:
        # Whatever stops a network on meta (data-dependent code, an op without a meta kernel),
        # the real forward either shows the width or the true error.
        return _run_for_real(backbone, input_shape, head, watched, watch)


def run_on_meta(
    backbone: nn.Module,
    input_shape: tuple[int, ...],
    *,
    head: nn.Module | None = None,
    watched: nn.Module | None = None,
    watch: AbstractContextManager[Any] | None = None,
) -> Run:
    """Do what ``run_once`` does without memory, or raise whatever stops the network there."""
    modules = _modules(backbone, head)
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise NotImplementedError("a scripted module keeps its tensors where no twin can stand in")
    dtype = computing_dtype(backbone)
    with _untouched(modules, own=False), torch.no_grad():
        _become_meta(modules)
        passed = _watch(watched)
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
    with _untouched(modules, own=True), torch.inference_mode(), _values_kept(whole):
        for module in modules:
            module.__dict__["training"] = False
        passed = _watch(watched)
        try:
            with watch or nullcontext():
                output = backbone(torch.zeros((BATCH, *input_shape), dtype=dtype, device=device))
        except Exception as error:
            raise ProbeError(
                f"failed on input {(BATCH, *input_shape)} with {_in_words(error)}"
            ) from error
        try:
            return Run(output, _logits(head, output), tuple(passed))
        except Exception as error:
            raise HeadError(
                f"fails on what the backbone gives, {tuple(output.shape)}: {_in_words(error)}"
            ) from error


def _modules(*networks: nn.Module | None) -> list[nn.Module]:
    """List the modules of some networks, each once."""
    whole = (one for network in networks if network is not None for one in network.modules())
    return list(dict.fromkeys(whole))


def _logits(head: nn.Module | None, output: Any) -> Any:
    # Of what is no embedding, `width_of` says so.
    return head(output) if head is not None and _is_embedding(output) else None


def _is_embedding(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == BATCH


def _watch(module: nn.Module | None) -> list[Any]:
    """Return a list that takes what an ``nn.Identity`` passes on, until it is put back."""
    passed: list[Any] = []

    def forward(value: Any) -> Any:
        passed.append(value)
        return value

    if module is not None:
        module.__dict__["forward"] = forward
    return passed


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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
            stack.callback(restore, module, snapshot(module, own=own))
            for name in _HOOKS:
                module.__dict__[name] = OrderedDict()
        for name in _GLOBAL_HOOKS:
            hooks = getattr(global_hooks, name)
            stack.callback(hooks.update, dict(hooks))
            hooks.clear()
        stack.enter_context(_random_states())
        yield


Snapshot = tuple[dict[str, Any], list[tuple[Any, Any]]]


def snapshot(module: nn.Module, *, own: bool) -> Snapshot:
    """Copy a module's attributes, and the contents of the containers among and in them."""
    state = dict(module.__dict__)
    # Hooks are taken out before anything runs.
    left_out = _HOOKS if own else _OWN
    values = [value for key, value in state.items() if key not in left_out]
    containers = [found for found in _within(values) if isinstance(found, (dict, list, set, deque))]
    return state, [
        (found, dict(found) if isinstance(found, dict) else list(found)) for found in containers
    ]


def restore(module: nn.Module, taken: Snapshot) -> None:
    """Give a module the attributes that it had when a snapshot was taken."""
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
def _values_kept(model: nn.Module) -> Iterator[None]:
    """Put back the values of all tensors of a network, which a real forward may change in place."""
    kept = [
        (tensor, tensor.detach().clone()) for tensor in tensors_within(model)
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
