"""Find where a checkpoint may have a network's tensors: in which state dict, at which prefix."""

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
"""Top-level names of parts that only training needs, and that no encoder uses."""

TOWER = "network."
"""The prefix of a network's tensor names in a tower of transformers."""

_TOP_PARTS_OF_AN_ENCODER = {"backbone", "head", "predictors"}
_ADAPTER = re.compile(r"(^|[._])lora_")
"""A part of the names that peft, loralib and kohya give to adapters."""

_FEWEST_MATRICES = 3
"""The fewest weight matrices and filters by which a state dict is recognised as a network."""

_DEEPEST = 16
"""The largest number of parts in a prefix. A damaged file could have thousands."""


class Outcome(Protocol):
    """The result of trying a state dict on a network."""

    @property
    def fits(self) -> bool:
        """Whether it fits all layers before the head exactly."""

    @property
    def left(self) -> tuple[str, ...]:
        """Names in the state dict that do not go into the network."""


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A part of a checkpoint that may be a network's state dict.

    Attributes:
        found: The state dict that it is a part of.
        prefix: The start of its names in that state dict, with the dot; empty for all names.
        without: Longer prefixes, whose tensors do not belong to the candidate.
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
        """Return its state dict as ``torch.load`` would, with names without the prefix."""
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
        """Whether a user's key names this candidate: by its path, or a part such as ``teacher``."""
        if not key:
            return not self.key
        # Users may copy the key from names in the file, with wrappers and a dot at the end.
        parts = [part for part in key.split(".") if part not in _WRAPPERS]
        path = ".".join(parts).strip(".")
        return f".{path}." in f".{self.key}." if path else not self.key


@dataclass(frozen=True, slots=True)
class Tried(Generic[OutcomeT]):
    """A candidate, and the result of trying it on a network."""

    candidate: Candidate
    outcome: OutcomeT


@dataclass(frozen=True, slots=True)
class Search(Generic[OutcomeT]):
    """The result of searching a checkpoint for a network's tensors.

    Attributes:
        fits: The candidates that fit. Candidates with the very same tensors count once.
        tried: All candidates that were tried.
        found: The state dicts in the checkpoint, unchanged.
        usable: Those of ``found`` that map names to tensors and hold nothing else; the names that
            wrappers add are removed.
    """

    fits: list[Tried[OutcomeT]]
    tried: list[Tried[OutcomeT]]
    found: list[StateDict]
    usable: list[StateDict]

    def named(self, key: str) -> list[Tried[OutcomeT]]:
        """Return the candidates that fit and that a key names; if one has this path, only that."""
        fits = [one for one in self.fits if one.candidate.is_named(key)]
        # A plugin may remove a prefix itself. Then a candidate fits with its prefix and without
        # it, and `fits` has only one of the two.
        fits = fits or distinct(
            one for one in self.tried if one.outcome.fits and one.candidate.is_named(key)
        )
        return [one for one in fits if one.candidate.key == key] or fits


def search(
    loaded: object, least: Callable[[], int], attempt: Callable[[Candidate], OutcomeT]
) -> Search[OutcomeT]:
    """Find the state dicts and prefixes in a checkpoint at which a network's tensors are.

    Args:
        loaded: The content of the file.
        least: Returns the smallest number of tensors that counts as the network. It is not called
            if the content is one state dict that fits completely.
        attempt: Tries a candidate on the network.
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
        fits = [here] if is_whole else _fits_at_or_below(here, least(), tried)
    elif usable:
        count = least()
        for one in usable:
            if _count(one.tensors) >= count:
                fits += _fits_at_or_below(tried(Candidate(one)), count, tried)
        if not every:
            tried(Candidate(max(usable, key=lambda one: len(one.tensors))))
    return Search(distinct(fits), every, found, usable)


def unwrapped_state_dicts(loaded: object) -> list[StateDict]:
    """Return the state dicts in a file's content, without the names that torch's wrappers add."""
    return _usable(without_aliases(state_dicts_in(loaded)))


def _usable(found: Iterable[StateDict]) -> list[StateDict]:
    return [_unwrapped(one) for one in found if one.is_plain]


def _fits_at_or_below(
    here: Tried[OutcomeT], least: int, tried: Callable[[Candidate], Tried[OutcomeT]]
) -> list[Tried[OutcomeT]]:
    """Return the candidates that fit at the prefix of a tried candidate or at longer prefixes."""
    candidate = here.candidate
    names = here.outcome.left if here.outcome.fits else [*candidate.state()]
    parts = _shared_first_parts(names, least) if candidate.prefix.count(".") < _DEEPEST else ()
    below = [
        one
        for part in parts
        for one in _fits_at_or_below(
            tried(replace(candidate, prefix=f"{candidate.prefix}{part}.")), least, tried
        )
    ]
    if not below:
        return [here] if here.outcome.fits else []
    # The tensors that are not at those longer prefixes may be a second network.
    rest = replace(candidate, without=tuple(one.candidate.prefix for one in below))
    if _count(rest.names()) >= least and (again := tried(rest)).outcome.fits:
        return [again, *below]
    return [here] if here.outcome.fits and len(below) == 1 else below


def _shared_first_parts(names: Iterable[str], least: int) -> Iterator[str]:
    """Return the first parts of names that at least ``least`` tensors share."""
    counts = Counter(
        name.partition(".")[0] for name in names if "." in name and not name.endswith(COUNTER)
    )
    return (part for part, count in counts.items() if count >= least)


def _count(names: Iterable[str]) -> int:
    return sum(not name.endswith(COUNTER) for name in names)


def distinct(fits: Iterable[Tried[OutcomeT]]) -> list[Tried[OutcomeT]]:
    """Leave out candidates that hold the very same tensors as an earlier one."""
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
    """Return where a file has tensors that may be the same network under other names, or None.

    Programs also save averages of weights as lists, under names without dots, in another order,
    with counters among them, or without the statistics of norms. Their names cannot show that they
    fit, so headstrip compares the shapes of all matrices and filters of the network.

    Args:
        needed: The tensors of the network before its head.
        beside: The tensors that it does not receive, by their place in the file, as ``left_out``
            returns them.
    """
    shapes = Counter(tuple(one.shape) for one in needed if one.ndim > 1)
    if shapes.total() < _FEWEST_MATRICES:
        return None
    for place, tensors in beside.items():
        if shapes <= Counter(tuple(one.shape) for one in tensors.values()):
            return place
    return None


def adapters_in(beside: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """Return the place of LoRA adapters among tensors that a network does not receive, or None."""
    return next((at for at, tensors in beside.items() if any(map(_ADAPTER.search, tensors))), None)


def is_training_only(name: str) -> bool:
    """Whether a tensor's name begins with a part that only training needs, such as a decoder."""
    # A plugin may keep the network inside another module.
    return _TRAINING_ONLY.fullmatch(name.removeprefix(TOWER).partition(".")[0]) is not None


def shortest_key(one: Candidate, among: list[Candidate]) -> str:
    """Return the shortest key that names one candidate and no other."""
    others = [other for other in among if other is not one]
    for part in one.parts:
        if not any(other.is_named(part) for other in others):
            return part
    return one.key


def head_beside(candidate: Candidate) -> str:
    """Return the prefix of the head, empty if the file is not an ``Encoder.state_dict()``."""
    before, dot, _ = f".{candidate.prefix}".rpartition(".backbone.")
    if not dot or candidate.without:
        return ""
    outer = f"{before}.".removeprefix(".")
    parts = {name.partition(".")[0] for name in under(candidate.found.tensors, outer)}
    is_ours = {"backbone", "head"} <= parts <= _TOP_PARTS_OF_AN_ENCODER
    return f"{outer}head." if is_ours else ""


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by their names without it."""
    start = len(prefix)
    return {name[start:]: one for name, one in tensors.items() if name.startswith(prefix)}


def left_out(
    chosen: Candidate, head: str, dropped: Iterable[str], found: Iterable[StateDict]
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a file that a network does not receive, by their place in the file.

    A second name for a tensor that it receives does not count.

    Args:
        chosen: The candidate that goes into the network.
        head: Prefix of the head beside the candidate, empty if there is no head.
        dropped: Names in the candidate's state dict that do not go into the network.
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
                # The key is the full path: two lists in one place may use the same names.
                beside.setdefault(_place(path, chosen.parts), {})[".".join(path)] = tensor
    return beside


def _place(path: Sequence[str], chosen: Iterable[str]) -> str:
    """Return a tensor's path up to the first part in which it differs from ``chosen``."""
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(path, chosen, strict=False))
    return ".".join(path[: len(list(shared)) + 1])


def _memory(tensor: Tensor) -> tuple[object, ...]:
    """Return a value that is equal for two names of the same tensor."""
    if tensor.layout != torch.strided or not tensor.numel():
        return (id(tensor),)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
