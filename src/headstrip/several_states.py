"""A checkpoint with several state dicts of one network: which is meant is never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import Tensor

from headstrip.errors import WeightsError
from headstrip.state_dicts import is_extra

_DEPTH = 8
_NAMES = frozenset({
    "state_dict", "model_state_dict", "model", "net", "network", "module", "ema", "model_ema",
    "state_dict_ema", "ema_state_dict", "ema_model", "model_state_dict_ema",
})  # fmt: skip
"""Entries under which programs keep the weights of the network, or an average of them."""

_OPTIMIZER = re.compile(
    r"(^|[_.-])opt(im|ims|imizer|imizers)?([_.-]|$)|momentum|velocity|exp_avg|gradients?\b|\bgrads?\b"
)
"""Entries of an optimizer, which may name its tensors as the network's are named."""

_LEAST = 4
"""How many times larger the largest of two alternatives may be."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A state dict in a checkpoint.

    Attributes:
        keys: The keys that lead to it, outermost first.
        tensors: Its tensors by name.
    """

    keys: tuple[Any, ...]
    tensors: dict[str, Tensor]

    @property
    def place(self) -> str:
        """Where it is, as a subscript of the object as read."""
        return "".join(f"[{key!r:.100}]" for key in self.keys)

    @property
    def is_named(self) -> bool:
        """Whether it is an entry for the weights of the network by its name."""
        return bool(self.keys) and self.keys[-1] in _NAMES

    def shapes_by_end(self) -> set[tuple[str, tuple[int, ...]]]:
        """Return each name, and all that is left of it without parts at its start, with its shape.

        A program that wraps a network puts a prefix before its names, and may add a few of its own.
        """
        return {
            (".".join(parts[start:]), tuple(tensor.shape))
            for parts, tensor in ((name.split("."), one) for name, one in self.tensors.items())
            for start in range(len(parts))
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors by name, without a prefix that all names have."""
        parts = [name.split(".") for name in self.tensors]
        # What the first and the last in order have in common, all have.
        ends = zip(min(parts)[:-1], max(parts)[:-1], strict=False)
        common = len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))
        return {
            ".".join(names[common:]): tuple(tensor.shape)
            for names, tensor in zip(parts, self.tensors.values(), strict=True)
        }


def refuse_several(loaded: object, path: object) -> None:
    """Refuse a checkpoint with more than one state dict that may be the weights of the network.

    Two are alternatives where both stand under names for the weights (``state_dict``, ``model``,
    ``ema`` ...), or where half of their tensors have the same names and shapes. The state of an
    optimizer is none, and two keys for the very same tensors are one state dict.

    Args:
        loaded: The object as read.
        path: Its file, for messages.

    Raises:
        WeightsError: There are several. The message lists them.
    """
    found = _without_aliases(list(_state_dicts(loaded)))
    rivals = [
        one for one in found if any(one is not other and _compete(one, other) for other in found)
    ]
    if not rivals:
        return
    listed = ", ".join(
        f"content{one.place} ({_counted(one.tensors)})" for one in rivals[:6]
    )  # fmt: skip
    raise WeightsError(
        f"{path} holds {len(rivals)} state dicts, and headstrip does not guess which one you mean: "
        f"{listed}{' and more' if rivals[6:] else ''}. Save the one that you mean by itself: "
        f"content = torch.load({str(path)!r}, weights_only=True); "
        f"torch.save(content{rivals[0].place}, 'weights.pth')."
    )


def _state_dicts(loaded: object) -> Iterator[_Found]:
    """Yield the state dicts in what a file holds, outermost first."""
    level: list[tuple[tuple[Any, ...], Mapping[Any, Any]]] = []
    if isinstance(loaded, Mapping):
        level.append(((), loaded))
    seen: set[int] = set()
    for _ in range(_DEPTH):
        deeper = []
        for keys, holder in level:
            # A damaged checkpoint may hold itself.
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            tensors = {
                key: value
                for key, value in holder.items()
                if isinstance(key, str) and isinstance(value, Tensor) and not is_extra(key)
            }
            others = sum(not is_extra(key) for key in holder) - len(tensors)
            # A checkpoint may hold a tensor or two beside its entries.
            if tensors and (len(tensors) >= others if keys else not others):
                yield _Found(keys, tensors)
            for key, value in holder.items():
                if not is_extra(key) and not _is_of_an_optimizer(key):
                    deeper += _mappings((*keys, key), value)
        level = deeper


def _mappings(
    keys: tuple[Any, ...], value: object
) -> list[tuple[tuple[Any, ...], Mapping[Any, Any]]]:
    """Return a mapping with the keys that lead to it, or those in a list, with their places."""
    if isinstance(value, Mapping):
        return [(keys, value)]
    if not isinstance(value, (list, tuple)):
        return []
    return [((*keys, at), one) for at, one in enumerate(value) if isinstance(one, Mapping)]


def _is_of_an_optimizer(key: object) -> bool:
    return isinstance(key, str) and _OPTIMIZER.search(key.lower()) is not None


def _compete(one: _Found, other: _Found) -> bool:
    """Whether each of two state dicts may be the weights of the network."""
    less, more = sorted((len(one.tensors), len(other.tensors)))
    if _LEAST * less < more:
        return False
    if one.is_named and other.is_named:
        return True
    return any(
        2 * len(first.shapes().items() & second.shapes_by_end()) > less
        for first, second in ((one, other), (other, one))
    )


def _without_aliases(found: list[_Found]) -> list[_Found]:
    """Leave out state dicts that hold the very tensors of one before them."""
    different: list[_Found] = []
    for one in found:
        if not any(_is_same(one.tensors, other.tensors) for other in different):
            different.append(one)
    return different


def _is_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor is other[name] or _is_view_of(tensor, other[name]) for name, tensor in one.items()
    )


def _is_view_of(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and (one.numel() == 0 or one.data_ptr() == other.data_ptr())
    )


def _counted(tensors: dict[str, Tensor]) -> str:
    return "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
