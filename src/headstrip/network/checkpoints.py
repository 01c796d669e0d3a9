"""Find the state dict in the content of a weights file, and never guess between several."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from torch import Tensor

from headstrip.errors import WeightsError
from headstrip.system.arguments import type_of

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
"""Keys under which programs save the weights of a network, or an average of them."""

_DEPTH = 8

_OPTIMIZER = re.compile(r"(^|[_.-])opt(im|ims|imizer|imizers)?([_.-]|$)")
_SLOT = re.compile(
    r"(max_)?exp_avg(_sq)?s?|exp_inf|momentum_buffers?|velocity|square_avg|grad_avg|acc_delta|"
    r"(grad(ient)?s?)(_buffers?)?"
)
"""Keys for the state of an optimizer, whose tensors may have the names of the network's."""

_NETWORK = re.compile(r"model|net|encoder|teacher|student|best|ema|swa|average|weights")
"""A key that contains one of these, such as "opt_model", does not belong to an optimizer."""

_LARGEST_RATIO = 4
"""The larger of two alternatives has at most this many times as many tensors as the smaller."""

_FEWEST_TENSORS = 3
"""The fewest tensors by whose shapes and order a state dict is recognised as a network."""


def plain_state_dict(loaded: object) -> dict[str, Tensor]:
    """Return the state dict in the content of a file, which may be an entry of a checkpoint.

    It leaves out module state that is not a tensor: see ``extra_states``.

    Args:
        loaded: The content: a state dict, or a dict with one under a key in ``WRAPPERS``.

    Raises:
        WeightsError: The content has no mapping of names to tensors.
    """
    state = _unwrapped(loaded)
    plain = {key: value for key, value in _items(state) if not is_extra(key)}
    if not plain or not all(map(_is_named_tensor, plain.items())):
        raise WeightsError(_no_state_dict(loaded, state))
    return plain


def extra_states(loaded: object) -> dict[str, Any]:
    """Return copies of the module state in a file's state dict that is not a tensor."""
    items = _items(_unwrapped(loaded))
    return {key: copy.deepcopy(value) for key, value in items if is_extra(key)}


def is_extra(key: object) -> bool:
    """Whether a name in a state dict belongs to module state that is not a tensor."""
    return isinstance(key, str) and key.rpartition(".")[2] == _EXTRA


def versions_of(source: object) -> dict[str, Any]:
    """Return the module versions that the content of a file states, empty if it states none."""
    return _stated_versions(_unwrapped(source))


def _stated_versions(state: object) -> dict[str, Any]:
    versions = getattr(state, "_metadata", None)
    stated = versions if isinstance(versions, Mapping) else {}
    # Copies, because torch writes a flag into them that the next load of the content would read.
    return {key: dict(one) for key, one in stated.items() if isinstance(one, Mapping)}


def _items(state: Any) -> list[tuple[Any, Any]]:
    return list(state.items()) if isinstance(state, dict) else []


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _unwrapped(loaded: object) -> Any:
    state: Any = loaded
    # The number of steps is limited: a damaged checkpoint may hold itself.
    for _ in WRAPPERS:
        if isinstance(state, Mapping):
            inner = (state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping))
            state = next(inner, state)
    return state


def _no_state_dict(loaded: object, state: Any) -> str:
    """Describe what a file holds instead of a state dict, and how to make one from it."""
    inside = [one.place for one in state_dicts_in(loaded) if one.keys and one.is_plain]
    if inside:
        places = " and ".join(f"content{place}" for place in inside[:3])
        return (
            f"The file holds {type_of(loaded)} with a state dict in it, at {places}. Save the "
            "state dict in a separate file: content = torch.load(path, weights_only=True); "
            f"torch.save(content{inside[0]}, 'weights.pth')."
        )
    items = _items(state)
    others = [(key, value) for key, value in items if not isinstance(value, Tensor)]
    if others and len(others) < len(items):
        key, value = others[0]
        return (
            f"The file holds a state dict with something else in it: {key!r:.100} is "
            f"{type_of(value)}. Save model.state_dict() unchanged."
        )
    mixed = [one.place for one in state_dicts_in(loaded) if one.keys and one.has_names]
    if mixed:
        return (
            f"The file holds {type_of(loaded)} with a state dict in it, at "
            f"content{mixed[0]}, and other things between its tensors. Save model.state_dict() "
            "unchanged."
        )
    return (
        f"The file holds {type_of(loaded)} and no state dict, a mapping of names to "
        "tensors. Save model.state_dict()."
    )


@dataclass(frozen=True, slots=True)
class StateDict:
    """A state dict in a checkpoint.

    Attributes:
        keys: The keys that lead to it, outermost first.
        tensors: Its tensors by name.
        has_names: Whether its tensors have names. If not, the names are their positions in a list.
        is_plain: Whether it is a mapping of names to tensors, with nothing else in it.
        states: The module state that is not a tensor, by name.
        versions: The module versions that it states, by the path of the module.
    """

    keys: tuple[Any, ...]
    tensors: dict[str, Tensor]
    has_names: bool
    is_plain: bool
    states: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Its place in the content of the file, as a subscript."""
        return "".join(f"[{key!r:.100}]" for key in self.keys)

    @property
    def is_named(self) -> bool:
        """Whether its key is one under which programs save the weights of a network."""
        return bool(self.keys) and self.keys[-1] in WRAPPERS

    def shapes_by_end(self) -> set[tuple[str, tuple[int, ...]]]:
        """Return (name, shape) of each tensor, also with the first parts of the name left out.

        A program that wraps a network puts a prefix before its names, and may add a few names.
        """
        return {
            (".".join(parts[start:]), tuple(tensor.shape))
            for parts, tensor in ((name.split("."), one) for name, one in self.tensors.items())
            for start in range(len(parts))
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors by name, without a prefix that all names have."""
        parts = [name.split(".") for name in self.tensors]
        # All names share the parts that the first and the last name in sorted order share.
        ends = zip(min(parts)[:-1], max(parts)[:-1], strict=False)
        common = len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))
        return {
            ".".join(names[common:]): tuple(tensor.shape)
            for names, tensor in zip(parts, self.tensors.values(), strict=True)
        }


def refuse_several(loaded: object, path: object) -> None:
    """Refuse a checkpoint with more than one state dict that may be the weights of the network.

    Two are alternatives if both have keys for the weights (``state_dict``, ``model``, ``ema`` ...),
    if half of their tensors have the same names and shapes, or if they have the same shapes in the
    same order, whatever their names: programs also save averages as lists. The state of an
    optimizer does not count, and two keys for the very same tensors are one state dict.

    Args:
        loaded: The content of the file.
        path: The file, for messages.

    Raises:
        WeightsError: There are several. The message lists them.
    """
    found = without_aliases(state_dicts_in(loaded))
    rivals = [
        one for one in found if any(one is not other and _compete(one, other) for other in found)
    ]
    if not rivals:
        return
    listed = ", ".join(f"content{one.place} ({counted(one.tensors)})" for one in rivals[:6])
    raise WeightsError(
        f"{path} holds {len(rivals)} state dicts, and headstrip does not guess which one you mean: "
        f"{listed}{' and more' if rivals[6:] else ''}. Save only the one that you mean: "
        f"content = torch.load({str(path)!r}, weights_only=True); "
        f"torch.save(content{rivals[0].place}, 'weights.pth')."
    )


def state_dicts_in(loaded: object) -> Iterator[StateDict]:
    """Yield the state dicts in a file's content, outermost first, without those of optimizers."""
    level = _holders((), loaded)
    seen: set[int] = set()
    for _ in range(_DEPTH):
        deeper = []
        for keys, holder in level:
            # A damaged checkpoint may hold itself.
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            every = dict(_entries(holder))
            entries = {key: value for key, value in every.items() if not is_extra(key)}
            tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
            others = len(entries) - len(tensors)
            # A checkpoint may hold a tensor or two beside its entries.
            if tensors and (len(tensors) >= others if keys else not others):
                has_names = all(isinstance(key, str) for key in tensors)
                named = {str(key): value for key, value in tensors.items()}
                is_plain = has_names and not others and isinstance(holder, dict)
                states = {key: value for key, value in every.items() if is_extra(key)}
                yield StateDict(keys, named, has_names, is_plain, states, _stated_versions(holder))
            for key, value in entries.items():
                if not _is_of_an_optimizer(key):
                    deeper += _holders((*keys, key), value)
        level = deeper


def _holders(keys: tuple[Any, ...], value: object) -> list[tuple[tuple[Any, ...], Any]]:
    """Return a list of the value and its keys if it may hold tensors, else an empty list."""
    return [(keys, value)] if isinstance(value, (Mapping, list, tuple)) else []


def _entries(holder: Any) -> Iterable[tuple[Any, Any]]:
    """Return the entries of a mapping, the pairs of a list of pairs, or a list's numbered items."""
    if isinstance(holder, Mapping):
        return holder.items()
    if holder and all(isinstance(one, (list, tuple)) and _is_pair(one) for one in holder):
        return ((name, tensor) for name, tensor in holder)
    return enumerate(holder)


def _is_pair(one: Sequence[Any]) -> bool:
    return len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], Tensor)


def _is_of_an_optimizer(key: object) -> bool:
    if not isinstance(key, str):
        return False
    name = key.lower()
    is_optimizer = _OPTIMIZER.search(name) is not None and _NETWORK.search(name) is None
    return is_optimizer or _SLOT.fullmatch(name) is not None


def _compete(one: StateDict, other: StateDict) -> bool:
    """Whether either of two state dicts may be the weights of the network."""
    less, more = sorted((len(one.tensors), len(other.tensors)))
    if _LARGEST_RATIO * less < more:
        return False
    if one.is_named and other.is_named:
        return True
    if 2 * less > more and has_shapes_of(one, other):
        return True
    return any(
        2 * len(first.shapes().items() & second.shapes_by_end()) > less
        for first, second in ((one, other), (other, one))
    )


def has_shapes_of(one: StateDict, other: StateDict) -> bool:
    """Whether the larger state dict has the shapes of the smaller one in the same order."""
    less, more = sorted((one, other), key=lambda found: len(found.tensors))
    rest = iter(more.tensors.values())
    return len(less.tensors) >= _FEWEST_TENSORS and all(
        any(tensor.shape == candidate.shape for candidate in rest)
        for tensor in less.tensors.values()
    )


def without_aliases(found: Iterable[StateDict]) -> list[StateDict]:
    """Leave out state dicts that hold the very same tensors as an earlier one."""
    different: list[StateDict] = []
    for one in found:
        if not any(is_same(one, other) for other in different):
            different.append(one)
    return different


def is_same(one: StateDict, other: StateDict) -> bool:
    """Whether two state dicts hold the very same tensors."""
    if one.has_names and other.has_names and one.tensors.keys() != other.tensors.keys():
        return False
    is_by_name = one.tensors.keys() == other.tensors.keys()
    others = [other.tensors[name] for name in one.tensors] if is_by_name else other.tensors.values()
    return len(one.tensors) == len(other.tensors) and all(
        tensor is another or _is_view_of(tensor, another)
        for tensor, another in zip(one.tensors.values(), others, strict=True)
    )


def _is_view_of(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and (one.numel() == 0 or one.data_ptr() == other.data_ptr())
    )


def counted(tensors: Sized) -> str:
    """Return how many tensors there are, in words."""
    return "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
