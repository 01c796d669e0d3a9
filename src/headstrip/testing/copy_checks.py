"""Checks of copies of a backbone: deep copy, pickle, state dict, float64, and a second build."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import Tensor, nn

from headstrip.errors import HeadNotFoundError, HeadstripError
from headstrip.testing.forward_checks import finite_embedding, relative_difference
from headstrip.testing.pair import embedding_of
from headstrip.testing.report import CheckFailed
from headstrip.testing.states import Snapshot, some
from headstrip.testing.subject import Subject

PRECISION = 1e-3
"""Largest difference between float64 and float32, relative to the largest number."""


def deepcopy(subject: Subject) -> str:
    """A deep copy of the backbone gives the same embedding."""
    return _compare(subject, "a deep copy", copy.deepcopy(subject.pair.stripped.backbone))


def pickling(subject: Subject) -> str:
    """The backbone gives the same embedding after pickling."""
    data = pickle.dumps(subject.pair.stripped.backbone)
    return _compare(subject, "the unpickled backbone", pickle.loads(data))


def state_dict(subject: Subject) -> str:
    """The state dict, loaded into a build with another seed, gives the same embedding."""
    return _compare(subject, "a fresh build with this state dict", _loaded_copy(subject))


def dtype(subject: Subject) -> str:
    """In float64 the backbone gives the same embedding up to the rounding of float32."""
    finite_embedding(subject)
    try:
        backbone = _loaded_copy(subject)
        alone = embedding_of(backbone, subject.pair.x[:1])
        found = embedding_of(backbone.to(torch.float64), subject.pair.x[:1].double())
    finally:
        # The conversion changed this backbone, so other checks must not use it.
        subject.forget("fresh")
    if found.dtype != torch.float64:
        raise CheckFailed(f"after .to(torch.float64) the embedding is {found.dtype}")
    largest = relative_difference(alone, found)
    if not largest <= PRECISION:
        raise CheckFailed(
            f"after .to(torch.float64) the embedding differs by {largest:.1e} relative, and "
            f"rounding explains at most {PRECISION:g}"
        )
    return f"float64 differs by {largest:.1e} relative"


def _loaded_copy(subject: Subject) -> nn.Module:
    """Save the state dict, load it into a backbone from another seed, and return that backbone."""
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
        raise CheckFailed(f"{what} gives another embedding: it differs by {differ:.1e} relative")
    return "equal bit for bit"


def repeatable(subject: Subject) -> str:
    """Two builds with one seed are equal, and building does not seed the generators itself."""
    pair, fresh = subject.pair, subject.fresh
    if pair.unequal:
        raise CheckFailed(f"two builds with one seed differ in {some(pair.unequal)}")
    fixed = [name for name, after in pair.states.items() if after == fresh.states[name]]
    if fixed:
        raise CheckFailed(
            f"build_model seeds {' and '.join(fixed)} random number generator: after two different "
            "seeds its state is the same"
        )
    return "two builds with one seed are equal"


class _Stranger(nn.Module):
    """A network that belongs to no family."""

    def __init__(self) -> None:
        super().__init__()
        self.headstrip_stem = nn.Linear(4, 3)
        self.headstrip_out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 4) to (N, 2)."""
        out: Tensor = self.headstrip_out(self.headstrip_stem(x))
        return out


def refusal(subject: Subject) -> str:
    """strip_head refuses another kind of network with HeadNotFoundError, and does not change it."""
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
        raise CheckFailed(
            f"for another kind of network, strip_head did not raise HeadNotFoundError: {error}"
        ) from error
    else:
        raise CheckFailed("strip_head accepted another kind of network as one of its family")
    changed = before.changes("strip_head", stranger)
    if list(stranger.modules()) != modules:
        changed.append("its modules are different")
    if changed:
        raise CheckFailed(f"strip_head refused a network but changed it: {'; '.join(changed)}")
    return f"refused with {refused}"
