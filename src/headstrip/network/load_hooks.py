"""Handle networks that have their own code for loading a state dict.

In hooks and overridden methods, a module may rename, change or ignore entries of a file, and it may
keep more than tensors. If that matters, headstrip initialises the network, and torch loads it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.network.checkpoints import is_extra, versions_of
from headstrip.network.state_dicts import COUNTER, Fit

_METHODS = ("_load_from_state_dict", "load_state_dict")
_EXTRA = ("get_extra_state", "set_extra_state")
_TORCHS_OWN = ("torch.nn.modules.", "torch.nn.utils.")


@dataclass(frozen=True, slots=True)
class Taken:
    """A state dict as a network's own loading code changes it.

    Attributes:
        fit: How the changed state dict fits.
        state: Its entries without values, by the names under which the network looks for them.
    """

    fit: Fit
    state: Mapping[str, Any]


def has_load_hooks(model: nn.Module) -> bool:
    """Whether a module outside torch does more than copy when a state dict is loaded into it."""
    modules = list(model.modules())
    if any(one._load_state_dict_pre_hooks or one._load_state_dict_post_hooks for one in modules):
        return True
    methods = {getattr(kind, name) for kind in set(map(type, modules)) for name in _METHODS}
    return any(not f"{method.__module__}.".startswith(_TORCHS_OWN) for method in methods)


def keeps_more(model: nn.Module) -> bool:
    """Whether a module of a network keeps more in its state dict than tensors."""
    return any(
        getattr(kind, name) is not getattr(nn.Module, name)
        for kind in set(map(type, model.modules()))
        for name in _EXTRA
    )


def taken(model: nn.Module, state: Mapping[str, Any], source: object) -> Taken | None:
    """Find the names under which a network looks for the entries of a state dict.

    Args:
        model: A network that is not needed afterwards.
        state: The adapted state dict.
        source: The content of the file, whose module versions are passed on.

    Returns:
        The result; None if the network fails, or would change the kind of a tensor silently.
    """
    if any(_is_unloadable(value) for value in state.values()):
        return None
    # Without values a hook cannot change those of the file. A hook that needs values gets copies.
    return _taken(
        model, {key: _without_values(value) for key, value in state.items()}, source
    ) or _taken(model, {key: _copied(value) for key, value in state.items()}, source)


def load_as_torch(
    model: nn.Module, state: Mapping[str, Any], source: object, *, strict: bool
) -> None:
    """Load a state dict as torch does by itself.

    Args:
        model: A network with memory.
        state: The adapted state dict.
        source: The content of the file. Module versions that it does not state stay unknown.
        strict: Whether nothing may be missing or left over.

    Raises:
        Exception: Whatever torch or the network raises.
    """
    model.load_state_dict(_as_stated(state, source), strict=strict)


def holds_exactly(model: nn.Module, given: Mapping[str, Tensor]) -> bool:
    """Whether a network holds exactly the tensors that were loaded, under whatever names."""
    own = {
        (tensor.data_ptr(), tensor.dtype, tensor.shape)
        for module in model.modules()
        for register in (module._parameters, module._buffers)
        for tensor in register.values()
        if tensor is not None
    }
    return all((one.data_ptr(), one.dtype, one.shape) in own for one in given.values())


def _is_unloadable(value: object) -> bool:
    """Whether a value is a sparse, nested or meta tensor, which headstrip does not load."""
    return isinstance(value, Tensor) and (
        value.layout is not torch.strided or value.is_meta or value.is_nested
    )


def _taken(model: nn.Module, state: dict[str, Any], source: object) -> Taken | None:
    own = {key: value for key, value in model.state_dict().items() if not is_extra(key)}
    seen, every = {}, {}
    ends: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def look(module: nn.Module, local: dict[str, Any], prefix: str, *_: Any) -> None:
        names = (f"{prefix}{name}" for name in (*module._parameters, *module._buffers))
        seen.update({name: local[name] for name in names if name in local and name in own})
        every.update(local)

    def end(module: nn.Module, keys: Any) -> None:
        ends.append((tuple(keys.missing_keys), tuple(keys.unexpected_keys)))

    # Hooks run in the order of registration, so these see the result of the others.
    handles = [
        module.register_load_state_dict_pre_hook(look)  # type: ignore[no-untyped-call]
        for module in model.modules()
    ]
    handles.append(
        model.register_load_state_dict_post_hook(end)  # type: ignore[no-untyped-call]
    )
    try:
        model.load_state_dict(_as_stated(state, source), strict=False, assign=True)
    except Exception:
        # A tensor of another shape raises after the post hook, any other problem before it.
        pass
    finally:
        for handle in handles:
            handle.remove()
    if not ends or any(_is_other_kind(own[key], value) for key, value in seen.items()):
        return None
    missing, unexpected = ends[0]
    reshaped = tuple(key for key, value in seen.items() if value.shape != own[key].shape)
    shapes = tuple((tuple(seen[key].shape), tuple(own[key].shape)) for key in reshaped)
    left = {key: every[key] for key in unexpected if key in every}
    lost = tuple(key for key in missing if not key.endswith(COUNTER))
    return Taken(Fit(lost, unexpected, reshaped, shapes), {**seen, **left})


def _as_stated(state: Mapping[str, Any], source: object) -> OrderedDict[str, Any]:
    ordered = OrderedDict(state)
    if versions := versions_of(source):
        ordered._metadata = versions  # type: ignore[attr-defined]
    return ordered


def _without_values(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_other_kind(own: Tensor, value: object) -> bool:
    return (
        not isinstance(value, Tensor)
        or own.is_floating_point() != value.is_floating_point()
        or own.is_complex() != value.is_complex()
    )
