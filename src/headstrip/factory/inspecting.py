"""Describe the content of a weights file, for a person who received it without a description."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from torch import Tensor

from headstrip.errors import WeightsError
from headstrip.factory.nearest import Architectures, Match, foreign_library
from headstrip.factory.selection import as_weights
from headstrip.network.candidates import (
    Candidate,
    adapters_in,
    head_beside,
    left_out,
    nameless_rival,
    search,
    shortest_key,
    under,
    unwrapped_state_dicts,
)
from headstrip.network.checkpoints import StateDict, plain_state_dict
from headstrip.registry.registry import get_registry
from headstrip.weights.reading import read_weights

_PART = 4
_LEAST = 4


@dataclass(frozen=True, slots=True)
class InspectedStateDict:
    """One state dict in a weights file.

    Attributes:
        key: Its dotted path in the file: the keys that lead to it, and the prefix of its names.
            Empty if it is the whole content. ``weights_key`` of ``build_encoder`` takes it.
        prefix: The start of its names, such as ``"module."``.
        tensors: The number of its tensors.
        bytes: Their size in bytes.
        dtypes: Their dtypes, such as ``("float32", "int64")``.
        classes: The number of classes of its head, None if the head is missing or unknown.
        architectures: The names of the architectures in the catalog whose layers before the head
            it fits exactly.
        library: The library that gave its tensors their names, if headstrip cannot use these.
        line: The call that builds an encoder from it, with the first of the architectures; None
            if none fits. Architectures of equal shapes can differ in their preprocessing.
    """

    key: str
    prefix: str
    tensors: int
    bytes: int
    dtypes: tuple[str, ...]
    classes: int | None
    architectures: tuple[str, ...]
    library: str | None
    line: str | None


@dataclass(frozen=True, slots=True)
class InspectedCheckpoint:
    """The content of a weights file.

    Attributes:
        path: The file.
        sha256: Hexadecimal sha256 of its bytes.
        state_dicts: The state dicts in it. Those of optimizers are left out.
    """

    path: Path
    sha256: str
    state_dicts: tuple[InspectedStateDict, ...]


def inspect_checkpoint(path: str | os.PathLike[str]) -> InspectedCheckpoint:
    """Describe the content of a weights file, without executing code in it.

    Args:
        path: A ``.safetensors`` file, the index of several, or a file of ``torch.save``.

    Raises:
        WeightsError: The file cannot be read, is damaged, holds code, or holds no state dict.

    Example:
        >>> import torch, torchvision
        >>> state = torchvision.models.resnet18(num_classes=7).state_dict()
        >>> torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, "run.ckpt")
        >>> (found,) = inspect_checkpoint("run.ckpt").state_dicts
        >>> found.key, found.tensors, found.classes, "resnet18" in found.architectures
        ('state_dict.module', 122, 7, True)
        >>> found.line
        "build_encoder('resnet18', weights='run.ckpt')"
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise WeightsError(f"{path!r:.100} is not the path of a weights file. Pass one.")
    path = os.fspath(path)
    file = read_weights(Path(os.path.expanduser(path)))
    usable = unwrapped_state_dicts(file.content)
    if not usable:
        plain_state_dict(file.content)
    least = max(_LEAST, max((len(one.tensors) for one in usable), default=0) // _PART)
    catalog = Architectures()

    def matched(candidate: Candidate) -> _Matches:
        return _Matches(tuple(catalog.that_fit(candidate)))

    result = search(file.content, lambda: least, matched)
    fits = [(one.candidate, one.outcome.matches) for one in result.fits]
    places = {candidate.found.keys for candidate, _ in fits}
    others = [
        (_without_common_prefix(Candidate(one)), ())
        for one in usable
        if one.keys not in places and len(one.tensors) >= least
    ]
    described = tuple(
        _described(candidate, matches, fits, _key_needed(candidate, matches, result.found), path)
        for candidate, matches in (*fits, *others)
    )
    return InspectedCheckpoint(file.path, file.sha256, described)


@dataclass(frozen=True, slots=True)
class _Matches:
    """The architectures that a candidate fits, as the result of trying it."""

    matches: tuple[Match, ...]
    left: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return bool(self.matches)


def _described(
    candidate: Candidate,
    matches: tuple[Match, ...],
    fits: list[tuple[Candidate, tuple[Match, ...]]],
    key: str,
    path: str,
) -> InspectedStateDict:
    tensors = [candidate.found.tensors[name] for name in candidate.names()]
    names = [get_registry().short_name(match.spec) for match in matches]
    return InspectedStateDict(
        key=candidate.key,
        prefix=candidate.prefix,
        tensors=len(tensors),
        bytes=sum(one.numel() * one.element_size() for one in tensors),
        dtypes=tuple(sorted({str(one.dtype).removeprefix("torch.") for one in tensors})),
        classes=_classes(candidate, matches),
        architectures=tuple(names),
        library=None if names else foreign_library(candidate.names()),
        line=_line(candidate, matches, fits, key, path) if names else None,
    )


def _classes(candidate: Candidate, matches: Iterable[Match]) -> int | None:
    beside = under(candidate.found.tensors, prefix) if (prefix := head_beside(candidate)) else {}
    if beside:
        return _first_axis(beside.values())
    return next((match.classes for match in matches), None)


def _first_axis(tensors: Iterable[Tensor]) -> int | None:
    sizes = {int(one.shape[0]) for one in tensors if one.ndim}
    return sizes.pop() if len(sizes) == 1 else None


def _line(
    candidate: Candidate,
    matches: tuple[Match, ...],
    fits: list[tuple[Candidate, tuple[Match, ...]]],
    key: str,
    path: str,
) -> str:
    spec = matches[0].spec
    rivals = [other for other, theirs in fits if any(one.spec == spec for one in theirs)]
    key = shortest_key(candidate, rivals) if len(rivals) > 1 else key
    chosen = f", weights_key={key!r}" if key else ""
    return (
        f"build_encoder({get_registry().short_name(spec)!r}, weights={as_weights(path)!r}{chosen})"
    )


def _key_needed(
    candidate: Candidate, matches: tuple[Match, ...], found: Iterable[StateDict]
) -> str:
    """Return a candidate's key if the file also has an average of it or adapters, else ''."""
    state = candidate.state()
    beside = left_out(candidate, head_beside(candidate), (), found)
    needed = [state[name] for match in matches[:1] for name in match.needed]
    is_alone = nameless_rival(needed, beside) is None and adapters_in(beside) is None
    return "" if is_alone else candidate.key


def _without_common_prefix(candidate: Candidate) -> Candidate:
    """Return a candidate with the prefix that all of its names have."""
    firsts = [name.split(".")[:-1] for name in candidate.names()]
    # All names share the parts that the first and the last name in sorted order share.
    ends = zip(min(firsts), max(firsts), strict=False)
    prefix = "".join(f"{one}." for one, _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return Candidate(candidate.found, prefix)
