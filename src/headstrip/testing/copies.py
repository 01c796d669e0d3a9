"""Copies of a backbone: deep, pickled, by state dict, in another precision, and built again."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import Tensor, nn

from headstrip.errors import HeadNotFoundError, HeadstripError
from headstrip.testing.pair import embedding_of
from headstrip.testing.proof import finite_embedding, relative_difference
from headstrip.testing.report import Broken
from headstrip.testing.states import Snapshot, some
from headstrip.testing.subject import Subject

PRECISION = 1e-3
"""Largest difference between float64 and float32, relative to the largest number."""


def deepcopy(subject: Subject) -> str:
    """A deep copy of the backbone gives the same embedding."""
    return _compare(subject, "a deep copy", copy.deepcopy(subject.pair.stripped.backbone))


def pickling(subject: Subject) -> str:
    """The backbone survives pickling with the same embedding."""
    data = pickle.dumps(subject.pair.stripped.backbone)
    return _compare(subject, "the unpickled backbone", pickle.loads(data))


def state_dict(subject: Subject) -> str:
    """The state dict of the backbone, loaded into one of another seed, makes it the same."""
    return _compare(subject, "a fresh build with this state dict", _filled(subject))


def dtype(subject: Subject) -> str:
    """In float64 the backbone gives the same embedding up to what float32 rounds."""
    finite_embedding(subject)
    try:
        backbone = _filled(subject)
        alone = embedding_of(backbone, subject.pair.x[:1])
        found = embedding_of(backbone.to(torch.float64), subject.pair.x[:1].double())
    finally:
        # It is another network from here on.
        subject.forget("fresh")
    if found.dtype != torch.float64:
        raise Broken(f"after .to(torch.float64) the embedding is {found.dtype}")
    largest = relative_difference(alone, found)
    if not largest <= PRECISION:
        raise Broken(
            f"after .to(torch.float64) the embedding differs by {largest:.1e} relative, and at "
            f"most {PRECISION:g} is rounding"
        )
    return f"float64 differs by {largest:.1e} relative"


def _filled(subject: Subject) -> nn.Module:
    """Return the backbone of another seed with the values of this one, through a file's bytes."""
    buffer = io.BytesIO()
    torch.save(subject.pair.stripped.backbone.state_dict(), buffer)
    buffer.seek(0)
    backbone = subject.fresh.stripped.backbone
    backbone.load_state_dict(torch.load(buffer, weights_only=True))
    return backbone


def _compare(subject: Subject, what: str, backbone: nn.Module) -> str:
    alone = finite_embedding(subject)
    found = embedding_of(backbone, subject.pair.x[:1])
    if found.shape != alone.shape or not torch.equal(found, alone):
        differ = relative_difference(found, alone) if found.shape == alone.shape else float("inf")
        raise Broken(
            f"{what} gives another embedding, {differ:.1e} relative, and the same was expected"
        )
    return "equal bit for bit"


def repeatable(subject: Subject) -> str:
    """One seed builds one network, and building seeds nothing itself."""
    pair, fresh = subject.pair, subject.fresh
    if pair.unequal:
        raise Broken(f"two builds of one seed differ in {some(pair.unequal)}")
    fixed = [name for name, after in pair.states.items() if after == fresh.states[name]]
    if fixed:
        raise Broken(
            f"build_model sets {' and '.join(fixed)} random number generator to a state of its "
            "own: after two seeds it is the same"
        )
    return "two builds of one seed are equal"


class _Stranger(nn.Module):
    """A network of no family."""

    def __init__(self) -> None:
        super().__init__()
        self.headstrip_stem = nn.Linear(4, 3)
        self.headstrip_out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 4) to (N, 2)."""
        out: Tensor = self.headstrip_out(self.headstrip_stem(x))
        return out


def refusal(subject: Subject) -> str:
    """strip_head refuses a network of another kind with HeadNotFoundError, and leaves it alone."""
    stranger = _Stranger()
    modules, before = list(stranger.modules()), Snapshot(stranger)
    plugin, family = subject.registry.stripper(subject.spec.family)
    try:
        plugin.call(
            "strip_head", subject.name, model=stranger, family=family, spec=None, entry=None
        )
    except HeadNotFoundError:
        refused = "HeadNotFoundError"
    except HeadstripError as error:
        raise Broken(
            f"of a network of another kind strip_head raised no HeadNotFoundError: {error}"
        ) from error
    else:
        raise Broken("strip_head took a network of another kind for one of its family")
    changed = before.changes("strip_head", stranger)
    if list(stranger.modules()) != modules:
        changed.append("it has other modules than before")
    if changed:
        raise Broken(f"strip_head refused a network and changed it: {'; '.join(changed)}")
    return f"refused with {refused}"
