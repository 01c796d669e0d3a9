"""Choose the state dict of a checkpoint for a network: the only one that fits."""

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
    adapters_in,
    head_beside,
    left_out,
    nameless_rival,
    search,
    shortest_key,
    under,
    unwrapped_state_dicts,
)
from headstrip.network.checkpoints import counted, is_extra, plain_state_dict
from headstrip.network.head import Stripped
from headstrip.network.state_dicts import COUNTER, is_under

_LOGGER = logging.getLogger("headstrip.factory")
_SHOWN = 6
_HALF = 2
_IN_A_LAYER, _IN_A_HEAD = 2, 4
"""The largest number of tensors in a head of one layer, and in a head of up to two layers."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of trying a part of a checkpoint on a network.

    Attributes:
        content: The part, as a plain state dict.
        state: The state dict for the network, adapted by its plugin.
        plan: How to load it into the network.
        dropped: Names that were taken out of it, because only training needs them.
        lost_head: Tensors among these that are a head of another kind than the network's.
        head: Prefix of the head, if the file keeps it beside the backbone; else empty.
        error: Why it does not fit, or None.
        faults: How many tensors before the head are missing or have another shape, None if that
            cannot be counted.
    """

    content: Mapping[str, Any]
    state: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    dropped: tuple[str, ...] = ()
    lost_head: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""
    error: WeightsError | None = None
    faults: int | None = None

    @property
    def fits(self) -> bool:
        """Whether it fits all layers before the head exactly."""
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
    needed: Callable[[], frozenset[str]],
    attempt: Callable[[Candidate], Attempt],
    weights_key: str | None,
    note_unfit: Callable[[tuple[Candidate, ...]], None],
) -> Tried[Attempt]:
    """Return the only part of a checkpoint that fits a network, and log what is left out.

    Args:
        content: The content of the file.
        path: The file, for messages.
        about: The backbone, for messages.
        needed: Returns the names of the tensors that the network has before its head.
        attempt: Tries a candidate on the network.
        weights_key: The user's key for a candidate, None for the only one that fits.
        note_unfit: Called with the candidates if none of them fits.

    Raises:
        WeightsError: No candidate fits, several do, or the file has no state dict.
    """
    result = search(content, lambda: -(-len(needed()) // _HALF), attempt)
    if not result.tried:
        # This raises an error that says what the file holds instead.
        plain_state_dict(content)
        raise WeightsError(
            f"{path} holds a state dict inside too many other objects. Save the state dict in a "
            "separate file."
        )
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
    outcome = chosen.outcome
    beside = left_out(chosen.candidate, outcome.head, outcome.dropped, result.found)
    possible = {place: one for place, one in beside.items() if _matches_key(place, weights_key)}
    if possible and weights_key != chosen.candidate.key:
        _refuse_other_networks(path, about, chosen, possible, needed())
    _log(path, about, chosen, beside)
    if beside:
        _warn_of_heads(path, about, outcome, beside, needed())
    return chosen


def _tried_at(
    key: str, result: Search[Attempt], attempt: Callable[[Candidate], Attempt]
) -> list[Tried[Attempt]]:
    """Return the results for the candidates that a key names, even if they are far too small."""
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
    option = f"--weights-key {key or repr('')}"
    advice = f"Pass the one that you mean, such as weights_key={key!r} ({option})."
    if len({one.key for one in fits}) < len(fits):
        advice = "They have the same key, so save the one that you mean in a separate file."
    return (
        f"{path} holds {len(fits)} state dicts that fit {about}, and headstrip does not guess "
        f"which one you mean: {', '.join(shown)}{' and more' if fits[_SHOWN:] else ''}. "
        f"{advice}"
    )


def _matches_key(place: str, weights_key: str | None) -> bool:
    return weights_key is None or f".{weights_key}." in f".{place}."


def _refuse_other_networks(
    path: str,
    about: str,
    chosen: Tried[Attempt],
    beside: Mapping[str, Mapping[str, Tensor]],
    needed: frozenset[str],
) -> None:
    """Refuse a file whose other tensors may be the network that the user means.

    Raises:
        WeightsError: They may be an average of the chosen network, or are adapters for it.
    """
    key, outcome = chosen.candidate.key, chosen.outcome
    # A plugin may change the shape of a tensor, such as the filters for another channel.
    shapes = {one.shape for one in outcome.content.values() if isinstance(one, Tensor)}
    used = [outcome.state[name] for name in needed if name in outcome.state]
    rival = nameless_rival([one for one in used if one.shape in shapes], beside)
    if rival is not None:
        raise WeightsError(
            f"{path} holds a state dict that fits {about}, {key!r}, and tensors with the same "
            f"shapes under other names or without names, {rival!r}, such as an average. headstrip "
            f"does not guess which one you mean. Pass weights_key={key!r} for the state dict, or "
            "copy the other tensors into a separate file under the names of the network."
        )
    adapters = adapters_in(beside)
    if adapters is not None:
        raise WeightsError(
            f"{path} holds a state dict that fits {about}, {key!r}, and LoRA adapters for it, "
            f"{adapters!r}. The network gives other embeddings without them. Merge them first "
            "(peft: model.merge_and_unload()), and save the state dict of that. For the network "
            f"without them, pass weights_key={key!r}."
        )


def _warn_of_heads(
    path: str,
    about: str,
    outcome: Attempt,
    beside: Mapping[str, Mapping[str, Tensor]],
    needed: frozenset[str],
) -> None:
    """Warn if the encoder may not have the head of the file."""
    if len(_widths(outcome.lost_head)) == 1:
        names = ", ".join(outcome.lost_head)
        reason = f"The head in {path} ({names}) has other layers than the head of {about}"
        _LOGGER.warning("%s, so the encoder has no head", reason)
        return
    own = {name: one for name, one in outcome.state.items() if name not in needed}
    widths, most = set() if outcome.head else {*_widths(own)}, _IN_A_HEAD
    kept = "the head that is in the state dict itself"
    if outcome.plan.headless:
        # A head of one layer has as many inputs as an earlier layer has outputs.
        widths = {one.shape[0] for one in outcome.state.values() if getattr(one, "ndim", 0)}
        most, kept = _IN_A_LAYER, "no head"
    for place, tensors in beside.items():
        if len(tensors) <= most and not widths.isdisjoint(_widths(tensors)):
            _LOGGER.warning(
                "%s has tensors at %r that may be the head of its classes. The encoder has %s",
                path,
                place,
                kept,
            )


def _widths(tensors: Mapping[str, Any]) -> list[int]:
    """Return the number of inputs of each matrix."""
    return [one.shape[1] for one in tensors.values() if isinstance(one, Tensor) and one.ndim == 2]


def _unknown_key(path: str, key: str, keys: list[str]) -> str:
    keys = list(dict.fromkeys(map(repr, keys)))
    shown = ", ".join(keys[:_SHOWN]) + (" and more" if keys[_SHOWN:] else "")
    return (
        f"{path} has no state dict at weights_key={key!r}. It has {shown}. Pass one of these, or "
        "a part of one between two dots."
    )


def _log(
    path: str, about: str, chosen: Tried[Attempt], beside: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Log which state dict a network gets, and which tensors of the file it does not get."""
    candidate = chosen.candidate
    where = f" at {candidate.key!r}" if candidate.key else ""
    count = counted(candidate.names())
    _LOGGER.info("%s gets the state dict%s in %s (%s)", about, where, path, count)
    outcome = chosen.outcome
    shown = [f"{place} ({len(tensors)})" for place, tensors in sorted(beside.items())]
    # A plugin renames tensors, so headstrip knows how many it left out, but not which ones.
    if (fewer := len(outcome.content) - len(outcome.dropped) - len(outcome.state)) > 0:
        shown.append(f"{fewer} that the plugin leaves out")
    if shown:
        _LOGGER.info("headstrip does not use these tensors of %s: %s", path, ", ".join(shown))


def required_names(model: nn.Module, stripped: Stripped) -> frozenset[str]:
    """Return the names of a network's tensors before its head, without counters of batches."""
    return frozenset(
        name
        for name in model.state_dict()
        if not (is_under(name, stripped.paths) or name.endswith(COUNTER) or is_extra(name))
    )


def located(chosen: Candidate, content: object) -> Candidate:
    """Return the same part of a checkpoint after the file was read again."""
    found = next(one for one in unwrapped_state_dicts(content) if one.keys == chosen.found.keys)
    return replace(chosen, found=found)


def contents_for(
    candidate: Candidate, model: nn.Module, stripped: Callable[[], Stripped]
) -> Iterator[tuple[OrderedDict[str, Any], str]]:
    """Yield the plain state dicts that a candidate may be, and the prefix of the head beside it.

    The first has the candidate's names. The second exists if these start with positions in
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
    """Return a candidate's plain state dict, into which a head beside the backbone is moved."""
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
    """Return a shape without its first axis, the number of classes."""
    return tuple(tensor.shape)[1:]
