"""Where the tensors of a network may be in a checkpoint: a state dict in it, and a prefix there."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from headstrip.network.checkpoints import (
    StateDict,
    is_same,
    state_dicts_in,
    without_aliases,
)
from headstrip.network.state_dicts import COUNTER

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names that torch.compile, FSDP and activation checkpointing add, at any depth."""

_TRAINING_ONLY = re.compile(
    r"mask_token|decoder|decoder_\w+|projector|predictors?|prototypes|queue|queue_ptr|"
    r"(projection|prediction|contrastive)_heads?|attribute_predictors?|momentum_\w+|"
    r"aux\d|AuxLogits"
)
"""Top-level names of parts that help training alone, and that no encoder uses."""

TOWER = "network."
"""What the names of a network begin with in a tower of transformers."""

_TOP_PARTS_OF_AN_ENCODER = {"backbone", "head", "predictors"}
_ADAPTER = re.compile(r"(^|[._])lora_")
"""What the names of adapters have in peft, loralib and kohya."""

_FEWEST = 3
"""Matrices and filters that tell a network."""

_DEEPEST = 16
"""The most parts of a prefix. A damaged file could have thousands."""


class Outcome(Protocol):
    """What came of putting a state dict into a network."""

    @property
    def fits(self) -> bool:
        """Whether it fits exactly before the head."""

    @property
    def left(self) -> tuple[str, ...]:
        """Names in the state dict that do not go into the network."""


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A part of a checkpoint that may be a network's state dict.

    Attributes:
        found: The state dict that it is a part of.
        prefix: What its names begin with there, with the dot; empty for all of it.
        without: Longer prefixes whose names do not belong to it.
    """

    found: StateDict
    prefix: str = ""
    without: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The keys that lead to the state dict, and the parts of the prefix."""
        return (*map(str, self.found.keys), *filter(None, self.prefix.split(".")))

    @property
    def key(self) -> str:
        """The dotted path of the candidate in the file, empty for the whole content."""
        return ".".join(self.parts)

    def names(self) -> list[str]:
        """Return the names of its tensors in the state dict."""
        return [
            name
            for name in self.found.tensors
            if name.startswith(self.prefix) and not (self.without and name.startswith(self.without))
        ]

    def state(self) -> OrderedDict[str, Any]:
        """Return its tensors by their names without the prefix, as ``torch.load`` would."""
        start = len(self.prefix)
        state = OrderedDict((name[start:], self.found.tensors[name]) for name in self.names())
        state.update(
            (name[start:], value)
            for name, value in self.found.states.items()
            if name.startswith(self.prefix)
        )
        path = self.prefix.removesuffix(".")
        versions = {
            name.removeprefix(path).removeprefix("."): value
            for name, value in self.found.versions.items()
            if name == path or name.startswith(self.prefix)
        }
        if versions:
            state._metadata = versions  # type: ignore[attr-defined]
        return state

    def is_named(self, key: str) -> bool:
        """Whether a key means this candidate: its path, or a part of that such as ``teacher``."""
        if not key:
            return not self.key
        # The user may write what the file has: with the names of wrappers, and a dot at the end.
        parts = [part for part in key.split(".") if part not in _WRAPPERS]
        meant = ".".join(parts).strip(".")
        return f".{meant}." in f".{self.key}." if meant else not self.key


@dataclass(frozen=True, slots=True)
class Tried(Generic[OutcomeT]):
    """A candidate, and what came of putting it into a network."""

    candidate: Candidate
    outcome: OutcomeT


@dataclass(frozen=True, slots=True)
class Search(Generic[OutcomeT]):
    """What a checkpoint has for a network.

    Attributes:
        fits: The candidates that fit; the very same tensors count once.
        tried: All candidates that were tried.
        found: The state dicts in the checkpoint, unchanged.
        usable: Those that state names and hold nothing else, without the names that wrappers add.
    """

    fits: list[Tried[OutcomeT]]
    tried: list[Tried[OutcomeT]]
    found: list[StateDict]
    usable: list[StateDict]

    def named(self, key: str) -> list[Tried[OutcomeT]]:
        """Return the candidates that fit and that a key means; only the exact one, if it fits."""
        fits = [one for one in self.fits if one.candidate.is_named(key)]
        # A plugin may take off a prefix itself, and fit without it.
        fits = fits or distinct(
            one for one in self.tried if one.outcome.fits and one.candidate.is_named(key)
        )
        return [one for one in fits if one.candidate.key == key] or fits


def search(
    loaded: object, least: Callable[[], int], attempt: Callable[[Candidate], OutcomeT]
) -> Search[OutcomeT]:
    """Find every state dict, and every prefix in it, under which a network's tensors are.

    Args:
        loaded: The object as read.
        least: Returns the fewest tensors that can be those of the network. It is not called where
            the content is one state dict that fits whole.
        attempt: Puts a candidate into the network.
    """
    found = without_aliases(state_dicts_in(loaded))
    usable = _usable(found)
    every: list[Tried[OutcomeT]] = []

    def tried(candidate: Candidate) -> Tried[OutcomeT]:
        every.append(Tried(candidate, attempt(candidate)))
        return every[-1]

    fits: list[Tried[OutcomeT]] = []
    if len(found) == len(usable) == 1:
        here = tried(Candidate(usable[0]))
        is_whole = here.outcome.fits and not here.outcome.left
        fits = [here] if is_whole else _walk(here, least(), tried)
    elif usable:
        count = least()
        for one in usable:
            if _count(one.tensors) >= count:
                fits += _walk(tried(Candidate(one)), count, tried)
        if not every:
            tried(Candidate(max(usable, key=lambda one: len(one.tensors))))
    return Search(distinct(fits), every, found, usable)


def unwrapped_state_dicts(loaded: object) -> list[StateDict]:
    """Return the state dicts in what a file holds, without the names that torch's wrappers add."""
    return _usable(without_aliases(state_dicts_in(loaded)))


def _usable(found: Iterable[StateDict]) -> list[StateDict]:
    return [_unwrapped(one) for one in found if one.is_plain]


def _walk(
    here: Tried[OutcomeT], least: int, tried: Callable[[Candidate], Tried[OutcomeT]]
) -> list[Tried[OutcomeT]]:
    """Return what fits at the prefix of a candidate that was tried, or below it."""
    candidate = here.candidate
    names = here.outcome.left if here.outcome.fits else [*candidate.state()]
    parts = _heavy(names, least) if candidate.prefix.count(".") < _DEEPEST else ()
    below = [
        one
        for part in parts
        for one in _walk(
            tried(replace(candidate, prefix=f"{candidate.prefix}{part}.")), least, tried
        )
    ]
    if not below:
        return [here] if here.outcome.fits else []
    # Without what fits below: is the rest a second network, or was it the same one?
    rest = replace(candidate, without=tuple(one.candidate.prefix for one in below))
    if _count(rest.names()) >= least and (again := tried(rest)).outcome.fits:
        return [again, *below]
    return [here] if here.outcome.fits and len(below) == 1 else below


def _heavy(names: Iterable[str], least: int) -> Iterator[str]:
    """Yield the first parts of names that enough tensors share."""
    counts = Counter(
        name.partition(".")[0] for name in names if "." in name and not name.endswith(COUNTER)
    )
    return (part for part, count in counts.items() if count >= least)


def _count(names: Iterable[str]) -> int:
    return sum(not name.endswith(COUNTER) for name in names)


def distinct(fits: Iterable[Tried[OutcomeT]]) -> list[Tried[OutcomeT]]:
    """Leave out candidates that hold the very tensors of one before them."""
    different: list[Tried[OutcomeT]] = []
    seen: list[StateDict] = []
    for one in fits:
        state = StateDict((), _tensors(one.candidate), True, True)
        if not any(is_same(state, other) for other in seen):
            seen.append(state)
            different.append(one)
    return different


def _tensors(candidate: Candidate) -> dict[str, Tensor]:
    return {name: one for name, one in candidate.state().items() if isinstance(one, Tensor)}


def _unwrapped(found: StateDict) -> StateDict:
    """Return a state dict without the names that wrappers of torch add."""
    if not any(part in _WRAPPERS for name in found.tensors for part in name.split(".")):
        return found
    tensors = {_without_wrappers(name): one for name, one in found.tensors.items()}
    if len(tensors) != len(found.tensors):
        return found
    return replace(
        found,
        tensors=tensors,
        states={_without_wrappers(name): one for name, one in found.states.items()},
        versions={_without_wrappers(name): one for name, one in found.versions.items()},
    )


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def nameless_rival(
    needed: Iterable[Tensor], beside: Mapping[str, Mapping[str, Tensor]]
) -> str | None:
    """Return where the tensors are that may be the same network under other names, or None.

    Averages are kept as lists too, under names without dots, in another order, with counters among
    them, or without the statistics of norms. So their names cannot show that they fit: what shows
    it is that they have all the matrices and filters of the network.

    Args:
        needed: The tensors of the network before its head.
        beside: The tensors that it does not get, by where they are, as ``left_out`` returns them.
    """
    shapes = Counter(tuple(one.shape) for one in needed if one.ndim > 1)
    if shapes.total() < _FEWEST:
        return None
    for place, tensors in beside.items():
        if shapes <= Counter(tuple(one.shape) for one in tensors.values()):
            return place
    return None


def adapters_in(beside: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """Return where LoRA adapters are among the tensors that a network does not get, or None."""
    return next((at for at, tensors in beside.items() if any(map(_ADAPTER.search, tensors))), None)


def is_training_only(name: str) -> bool:
    """Whether a tensor's name begins with a part that helps training alone, such as a decoder."""
    # A plugin may keep the network inside another module.
    return _TRAINING_ONLY.fullmatch(name.removeprefix(TOWER).partition(".")[0]) is not None


def shortest_key(one: Candidate, among: list[Candidate]) -> str:
    """Return the shortest key that means one candidate and no other."""
    others = [other for other in among if other is not one]
    for part in one.parts:
        if not any(other.is_named(part) for other in others):
            return part
    return one.key


def head_beside(candidate: Candidate) -> str:
    """Return the prefix of the head of a backbone in ``Encoder.state_dict()``, empty elsewhere."""
    before, dot, _ = f".{candidate.prefix}".rpartition(".backbone.")
    if not dot or candidate.without:
        return ""
    outer = f"{before}.".removeprefix(".")
    parts = {name.partition(".")[0] for name in under(candidate.found.tensors, outer)}
    is_ours = {"backbone", "head"} <= parts <= _TOP_PARTS_OF_AN_ENCODER
    return f"{outer}head." if is_ours else ""


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    start = len(prefix)
    return {name[start:]: one for name, one in tensors.items() if name.startswith(prefix)}


def left_out(
    chosen: Candidate, head: str, dropped: Iterable[str], found: Iterable[StateDict]
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a file that a network does not get, by where they are.

    A second name for a tensor that it gets does not count.

    Args:
        chosen: The candidate that goes into the network.
        head: Prefix of the head beside it, empty without one.
        dropped: Names in its state dict that do not.
        found: The state dicts in the file.
    """
    here, out = chosen.found, {f"{chosen.prefix}{name}" for name in dropped}
    used = {name for name in chosen.names() if name not in out}
    used.update(name for name in here.tensors if head and name.startswith(head))
    held = {_memory(here.tensors[name]) for name in used}
    beside: dict[str, dict[str, Tensor]] = {}
    for one in found:
        is_here = one.keys == here.keys
        for name, tensor in one.tensors.items():
            if not (is_here and name in used) and _memory(tensor) not in held:
                path = [*map(str, one.keys), *name.split(".")]
                # Two lists in one place may have a tensor of the same name.
                beside.setdefault(_place(path, chosen.parts), {})[".".join(path)] = tensor
    return beside


def _place(path: Sequence[str], chosen: Iterable[str]) -> str:
    """Return where a tensor is, down to the first part that the path of another does not have."""
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(path, chosen, strict=False))
    return ".".join(path[: len(list(shared)) + 1])


def _memory(tensor: Tensor) -> tuple[object, ...]:
    """Return what two names for one tensor have in common."""
    if tensor.layout != torch.strided or not tensor.numel():
        return (id(tensor),)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
