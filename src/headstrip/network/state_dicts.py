"""State dicts: taken out of what a file holds, compared with a network, and put into it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.errors import WeightsError

COUNTER = "num_batches_tracked"
"""Files older than torch 0.4.1, and converted ones, have none; no output depends on them."""

# torch's name for the state of a module that is not a tensor.
_EXTRA = "_extra_state"
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
    "ema_model",
    "model_state_dict_ema",
)
"""Entries under which programs keep the weights of the network, or an average of them."""
_DEPTH = 3


def plain_state_dict(loaded: object) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, unwrapped where it is a checkpoint's entry.

    State of modules that is not a tensor is left out: see ``extra_states``.

    Args:
        loaded: The object as read: a state dict, or a dict with one under a name in ``WRAPPERS``.

    Raises:
        WeightsError: There is no mapping of names to tensors in it.
    """
    state = _unwrapped(loaded)
    plain = {key: value for key, value in _items(state) if not is_extra(key)}
    if not plain or not all(map(_is_named_tensor, plain.items())):
        raise WeightsError(_no_state_dict(loaded, state))
    return plain


def extra_states(loaded: object) -> dict[str, Any]:
    """Return copies of the state of modules that is not a tensor, from the state dict of a file."""
    items = _items(_unwrapped(loaded))
    return {key: copy.deepcopy(value) for key, value in items if is_extra(key)}


def is_extra(key: object) -> bool:
    """Whether a name in a state dict belongs to state that is not a tensor."""
    return isinstance(key, str) and key.rpartition(".")[2] == _EXTRA


def versions_of(source: object) -> dict[str, Any]:
    """Return the versions of modules that an object as read states, none where it states none."""
    versions = getattr(_unwrapped(source), "_metadata", None)
    stated = versions if isinstance(versions, Mapping) else {}
    # torch writes how it assigns into them, and the next load of the same file would read that.
    return {key: dict(one) for key, one in stated.items() if isinstance(one, Mapping)}


def _items(state: Any) -> list[tuple[Any, Any]]:
    return list(state.items()) if isinstance(state, dict) else []


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _unwrapped(loaded: object) -> Any:
    state: Any = loaded
    # One step for each at most: a damaged checkpoint may hold itself.
    for _ in WRAPPERS:
        if isinstance(state, Mapping):
            inner = (state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping))
            state = next(inner, state)
    return state


def _no_state_dict(loaded: object, state: Any) -> str:
    """Say what a file holds instead of a state dict, and how one is made of it."""
    if inside := _inside(loaded):
        places = " and ".join(f"content{place}" for place in inside[:3])
        return (
            f"The file holds a {type(loaded).__name__} with a state dict in it, at {places}. Save "
            "the one that is meant by itself: content = torch.load(path, weights_only=True); "
            f"torch.save(content{inside[0]}, 'weights.pth')."
        )
    items = _items(state)
    others = [(key, value) for key, value in items if not isinstance(value, Tensor)]
    if others and len(others) < len(items):
        key, value = others[0]
        return (
            f"The file holds a state dict with something else in it: {key!r:.100} is a "
            f"{type(value).__name__}. Save model.state_dict() unchanged."
        )
    return (
        f"The file holds a {type(loaded).__name__} and no state dict, a mapping of names to "
        "tensors. Save model.state_dict()."
    )


def _inside(loaded: object) -> list[str]:
    """List where in an object as read state dicts are, as subscripts of it."""
    found, seen, level = [], set(), [("", loaded)]
    for _ in range(_DEPTH):
        deeper = []
        for place, holder in level:
            # A damaged checkpoint may hold itself.
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            for key, value in _items(holder):
                deeper.append((f"{place}[{key!r:.100}]", value))
        found += [place for place, value in deeper if _is_state_dict(value)]
        level = deeper
    return found


def _is_state_dict(value: object) -> bool:
    items = _items(value)
    return bool(items) and all(map(_is_named_tensor, items))


@dataclass(frozen=True, slots=True)
class Fit:
    """How a state dict fits a network.

    Attributes:
        missing: Names that the network has and the file lacks.
        unexpected: Names that the file has and the network lacks.
        reshaped: Names that both have, with another shape.
        shapes: The two shapes of each of these, the file's first.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names that do not fit."""
        return (*self.missing, *self.unexpected, *self.reshaped)

    def outside(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that do not fit and are under none of the dotted ``paths``."""
        return tuple(name for name in self.names if not is_under(name, paths))


def is_under(name: str, paths: tuple[str, ...]) -> bool:
    """Whether a tensor's name is any of some dotted paths, or under one of them."""
    return name in paths or name.startswith(tuple(f"{path}." for path in paths))


def compare(model: nn.Module, state: Mapping[str, Any]) -> Fit:
    """Compare the names and shapes of a state dict with those of a network."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(COUNTER)]
    reshaped = tuple(
        key
        for key in own
        if key in state and not is_extra(key) and own[key].shape != state[key].shape
    )
    return Fit(
        tuple(missing),
        tuple(key for key in state if key not in own),
        reshaped,
        tuple((tuple(state[key].shape), tuple(own[key].shape)) for key in reshaped),
    )


def copy_into(
    model: nn.Module, state: Mapping[str, Any], source: object, *, headless: bool = False
) -> None:
    """Copy a state dict that was compared with the network before into its tensors.

    Args:
        model: The network, with memory.
        state: The adapted state dict.
        source: The object as read, whose versions of modules are carried over.
        headless: Whether the head's tensors are missing, and stay unchanged.

    Raises:
        WeightsError: A tensor is of another kind than the network's.
    """
    model.load_state_dict(ordered_state(model.state_dict(), state, source), strict=not headless)


def ordered_state(
    own: Mapping[str, Any], state: Mapping[str, Any], source: object
) -> OrderedDict[str, Any]:
    """Return a state dict that a network takes strictly: with the counters that old files lack.

    The versions of modules that ``source`` states are carried over, and those that it does not
    state are the network's own: some modules (MNASNet's) refuse to load without.

    Args:
        own: The network's state dict.
        state: The adapted one.
        source: The object as read.

    Raises:
        WeightsError: A tensor is of another kind than the network's.
    """
    _check_kinds(own, state)
    counters = {key: own[key] for key in own if key.endswith(COUNTER) and key not in state}
    ordered = OrderedDict({**state, **counters})
    merged = {**getattr(own, "_metadata", {}), **versions_of(source)}
    ordered._metadata = merged  # type: ignore[attr-defined]
    return ordered


def _check_kinds(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Refuse tensors that copying would change silently: integers, complex or sparse ones.

    Raises:
        WeightsError: There is one.
    """
    for name in own.keys() & state.keys():
        if is_extra(name):
            continue
        mine, other = own[name], state[name]
        if (
            mine.is_floating_point() != other.is_floating_point()
            or mine.is_complex() != other.is_complex()
            or other.layout is not torch.strided
            or other.is_meta
            or other.is_nested
        ):
            raise WeightsError(
                f"The tensor {name!r} in the file is {other.dtype}, {other.layout}, where the "
                f"network has {mine.dtype}, {mine.layout}. Save a plain state dict."
            )


def refuse_unfilled(model: nn.Module, about: str) -> None:
    """Refuse weights that leave layers before the head without values.

    Some published files fill a part of the network only and hold NaN elsewhere. The vectors of
    a network (biases, norms and their statistics) show it at no cost.

    Raises:
        WeightsError: A vector is not finite.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.ndim == 1 and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"The weights {about} do not fill the whole network: {name!r} is not finite. "
                "Embeddings would be NaN; choose other weights."
            )
