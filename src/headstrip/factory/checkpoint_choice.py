"""Which state dict of a checkpoint goes into a network: the only one that fits."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from headstrip.errors import WeightsError
from headstrip.factory.file_fit import Plan
from headstrip.network.candidates import (
    Candidate,
    Search,
    Tried,
    head_beside,
    left_out,
    nameless_rival,
    search,
    shortest_key,
    under,
    unwrapped_state_dicts,
)
from headstrip.network.checkpoints import StateDict, counted, is_extra, plain_state_dict
from headstrip.network.head import Stripped
from headstrip.network.state_dicts import COUNTER, is_under

_LOGGER = logging.getLogger("headstrip.factory")
_SHOWN = 6
_HALF = 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of putting a part of a checkpoint into a network.

    Attributes:
        content: The part, as a plain state dict.
        state: The state dict for the network, adapted by its plugin.
        plan: How it goes into the network.
        dropped: Names that were taken out of it, because they helped training alone.
        head: Prefix of the head, where the file keeps it beside the backbone; else empty.
        error: Why it does not fit, or None.
        faults: How many tensors before the head are missing or have another shape, None where that
            cannot be counted.
    """

    content: Mapping[str, Any]
    state: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    dropped: tuple[str, ...] = ()
    head: str = ""
    error: WeightsError | None = None
    faults: int | None = None

    @property
    def fits(self) -> bool:
        """Whether it fits exactly before the head."""
        return self.error is None

    @property
    def left(self) -> tuple[str, ...]:
        """Names in the part that do not go into the network."""
        used = {
            name.split(".", start)[-1]
            for name in self.state
            for start in range(name.count(".") + 1)
        }
        return tuple(name for name in self.content if name not in used)


def choose(
    content: object,
    path: str,
    about: str,
    tensors: Callable[[], int],
    attempt: Callable[[Candidate], Attempt],
    weights_key: str | None,
    note_unfit: Callable[[tuple[Candidate, ...]], None],
) -> Tried[Attempt]:
    """Return the only part of a checkpoint that fits a network, and log what is left out.

    Args:
        content: The object as read.
        path: Its file, for messages.
        about: The backbone, for messages.
        tensors: Counts the tensors that the network has before its head.
        attempt: Puts a candidate into the network.
        weights_key: Which candidate the user means, None for the only one.
        note_unfit: Called with the candidates where none of them fits.

    Raises:
        WeightsError: No candidate fits, several do, or the file has no state dict.
    """
    result = search(content, lambda: -(-tensors() // _HALF), attempt)
    if not result.tried:
        # It raises the error for what the file holds instead.
        plain_state_dict(content)
        raise WeightsError(f"{path} holds a state dict too deep inside. Save it by itself.")
    fits, tried = result.fits, result.tried
    if weights_key is not None:
        fits, tried = result.named(weights_key), _tried_at(weights_key, result, attempt)
        if not tried:
            keys = [one.candidate.key for one in result.tried]
            raise WeightsError(_unknown_key(path, weights_key, keys))
    if not fits:
        note_unfit(tuple(one.candidate for one in tried))
        raise _nearest(tried)
    if len(fits) > 1:
        raise WeightsError(several(path, about, [one.candidate for one in fits]))
    chosen = fits[0]
    if weights_key is None:
        rival = nameless_rival(chosen.candidate, result.found)
        if rival is not None:
            raise WeightsError(_has_rival(path, about, chosen.candidate, rival))
    _log(path, about, chosen, result.found)
    return chosen


def _tried_at(
    key: str, result: Search[Attempt], attempt: Callable[[Candidate], Attempt]
) -> list[Tried[Attempt]]:
    """Return what came of the candidates that a key means, even if they are far too small."""
    tried = [one for one in result.tried if one.candidate.is_named(key)]
    others = [one for one in map(Candidate, result.usable) if one.is_named(key)]
    return tried or [Tried(one, attempt(one)) for one in others]


def _nearest(tried: list[Tried[Attempt]]) -> WeightsError:
    """Return the error of the candidate with the fewest tensors that do not fit."""
    counted = [one for one in tried if one.outcome.faults is not None]
    best = min(counted or tried, key=lambda one: one.outcome.faults or 0)
    assert best.outcome.error is not None
    return best.outcome.error


def several(path: str, about: str, fits: list[Candidate]) -> str:
    """Return the message for a checkpoint with several state dicts that fit a network."""
    shown = [f"{one.key!r} ({counted(one.names())})" for one in fits[:_SHOWN]]
    key = shortest_key(fits[-1], fits)
    return (
        f"{path} holds {len(fits)} state dicts that fit {about}, and headstrip does not guess "
        f"which one you mean: {', '.join(shown)}{' and more' if fits[_SHOWN:] else ''}. Pass the "
        f"one that you mean, such as weights_key={key!r} (--weights-key {key or repr('')})."
    )


def _has_rival(path: str, about: str, chosen: Candidate, rival: StateDict) -> str:
    return (
        f"{path} holds a state dict that fits {about}, {chosen.key!r}, and tensors with the same "
        f"shapes under other names or without names, {'.'.join(map(str, rival.keys))!r}, such as "
        "an average. headstrip does not guess which one you mean. Pass "
        f"weights_key={chosen.key!r} for the state dict, or copy the other tensors into a "
        "separate file under the names of the network."
    )


def _unknown_key(path: str, key: str, keys: list[str]) -> str:
    keys = list(dict.fromkeys(map(repr, keys)))
    shown = ", ".join(keys[:_SHOWN]) + (" and more" if keys[_SHOWN:] else "")
    return (
        f"{path} has no state dict at weights_key={key!r}. It has {shown}. Pass one of these, or "
        "a part of one between two dots."
    )


def _log(path: str, about: str, chosen: Tried[Attempt], found: list[StateDict]) -> None:
    """Log which state dict a network gets, and which tensors of the file it does not get."""
    candidate = chosen.candidate
    where = f" at {candidate.key!r}" if candidate.key else ""
    count = counted(candidate.names())
    _LOGGER.info("%s gets the state dict%s in %s (%s)", about, where, path, count)
    outcome = chosen.outcome
    out = left_out(candidate, outcome.head, outcome.dropped, found)
    shown = [f"{place} ({count})" for place, count in sorted(out.items())]
    # A plugin renames tensors, so which ones it left out is not known, only how many.
    if (fewer := len(outcome.content) - len(outcome.dropped) - len(outcome.state)) > 0:
        shown.append(f"{fewer} that the plugin leaves out")
    if shown:
        _LOGGER.info("headstrip does not use these tensors of %s: %s", path, ", ".join(shown))


def required_count(model: nn.Module, stripped: Stripped) -> int:
    """Return how many tensors a network has before its head, without counters of batches."""
    return sum(
        not (is_under(name, stripped.paths) or name.endswith(COUNTER) or is_extra(name))
        for name in model.state_dict()
    )


def located(chosen: Candidate, content: object) -> Candidate:
    """Return the same part of a checkpoint that was read again."""
    found = next(one for one in unwrapped_state_dicts(content) if one.keys == chosen.found.keys)
    return replace(chosen, found=found)


def contents_for(
    candidate: Candidate, model: nn.Module, stripped: Callable[[], Stripped]
) -> Iterator[tuple[OrderedDict[str, Any], str]]:
    """Yield the plain state dicts that a candidate may be, and the prefix of the head beside it.

    The first has the candidate's names. The second exists where these are positions in
    ``nn.Sequential(*network.children())``, which lightly's examples save.
    """
    yield _with_head(candidate, model, stripped)
    children = [name for name, _ in model.named_children()]
    state = candidate.state()
    positions = {name.partition(".")[0] for name in state}
    if any(map(str.isdecimal, children)) or not positions <= set(map(str, range(len(children)))):
        return
    renamed: OrderedDict[str, Any] = OrderedDict()
    for name, value in state.items():
        position, dot, rest = name.partition(".")
        renamed[f"{children[int(position)]}{dot}{rest}"] = value
    yield renamed, ""


def _with_head(
    candidate: Candidate, model: nn.Module, stripped: Callable[[], Stripped]
) -> tuple[OrderedDict[str, Any], str]:
    """Return a candidate as a plain state dict, with the head beside a backbone in its place."""
    state = candidate.state()
    prefix = head_beside(candidate)
    head = under(candidate.found.tensors, prefix) if prefix else {}
    paths = stripped().paths if head else ()
    if not paths:
        return state, ""
    start = f"{paths[0]}."
    own = under(model.state_dict(), start)
    consumed = f".{candidate.prefix}".rpartition(".backbone.")[2]
    if own.keys() != head.keys() or not start.startswith(consumed):
        return state, ""
    if any(_rest(one) != _rest(own[name]) for name, one in head.items()):
        return state, ""
    inner = start.removeprefix(consumed)
    if any(name.startswith(inner) for name in state):
        return state, ""
    state.update({f"{inner}{name}": one for name, one in head.items()})
    return state, prefix


def _rest(tensor: Tensor) -> tuple[int, ...]:
    """Return a shape without its first axis, which is that of the classes."""
    return tuple(tensor.shape)[1:]
