"""The law itself: logits, or the declared embedding, against an untouched network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headstrip.registry.catalog import format_shape
from headstrip.testing.pair import Pair
from headstrip.testing.report import Broken, NotRun
from headstrip.testing.subject import Subject

ROUNDING = 1e-6
"""Largest difference that the law ``rounding`` allows, relative to the largest logit."""

BATCHES = 1e-4
"""Largest difference between a batch of one and of three, relative to the largest number."""


def lossless(subject: Subject) -> str:
    """The head kept gives the untouched network's logits of the embedding, as the law says."""
    pair, law = subject.pair, subject.pair.stripped.law
    if law in {"exact", "rounding"}:
        what, found, expected = "logits", _logits(pair), pair.output
    else:
        what, found, expected = "embedding", pair.embedding, _expected(subject, pair)
    shape = tuple(expected.shape) if isinstance(expected, Tensor) else type(expected).__name__
    if shape != tuple(found.shape):
        raise Broken(f"the {what} have the shape {tuple(found.shape)}, and {shape} was expected")
    _check_values("embedding", pair.embedding)
    _check_values(what, found)
    largest = relative_difference(found, expected)
    if not (largest <= ROUNDING if law == "rounding" else torch.equal(found, expected)):
        allowed = f"at most {ROUNDING:g}" if law == "rounding" else "none, bit for bit"
        raise Broken(
            f"the {what} differ from the untouched network's by {largest:.1e} relative, and the "
            f"law {law!r} allows {allowed}"
        )
    equal = "within rounding" if law == "rounding" else "bit for bit"
    return f"{found.shape[1]} {'logits' if what == 'logits' else 'numbers'} equal {equal}"


def _logits(pair: Pair) -> Tensor:
    if pair.stripped.head is None:
        raise Broken(f"the law is {pair.stripped.law!r}, and there is no head")
    with torch.no_grad():
        logits: Any = pair.stripped.head(pair.embedding)
    if not isinstance(logits, Tensor):
        raise Broken(f"the head gives a {type(logits).__name__} and not a tensor of logits")
    return logits


def _expected(subject: Subject, pair: Pair) -> Any:
    """Return the embedding as the untouched network shows it, or the plugin's reference does."""
    plugin, family = subject.registry.stripper(subject.spec.family)
    if pair.stripped.law == "headless":
        same = isinstance(pair.output, Tensor) and pair.output.shape == pair.embedding.shape
        if same and torch.equal(pair.output, pair.embedding):
            return pair.output
        if not plugin.implements("reference"):
            return pair.output
    with torch.no_grad():
        return plugin.call("reference", subject.name, model=pair.untouched, x=pair.x, family=family)


def _check_values(what: str, values: Tensor) -> None:
    broken = int((~values.isfinite()).sum())
    if broken:
        raise Broken(f"{broken} of {values.numel()} numbers of the {what} are not finite")
    if torch.equal(values[0], values[1]):
        raise Broken(f"the {what} of two different inputs are the same")


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest number expected."""
    scale = float(expected.abs().max()) or 1.0
    return float((found.to(expected.dtype) - expected).abs().max()) / scale


def finite_embedding(subject: Subject) -> Tensor:
    """Return the embedding of the first input alone.

    Raises:
        NotRun: It is not finite, so there is nothing to compare.
    """
    if not subject.single.isfinite().all():
        raise NotRun("the embedding is not finite, so there is nothing to compare")
    return subject.single


def batch(subject: Subject) -> str:
    """An image has the embedding that it has alone, whatever else is in its batch."""
    alone, among = finite_embedding(subject), subject.pair.embedding[:1]
    largest = relative_difference(among, alone)
    if not largest <= BATCHES:
        raise Broken(
            f"an input has another embedding in a batch of {len(subject.pair.x)} than alone: they "
            f"differ by {largest:.1e} relative, and at most {BATCHES:g} is rounding"
        )
    return f"differ by {largest:.1e} relative"


def state(subject: Subject) -> str:
    """Strip, probe and an eval forward leave flags, parameters, buffers and generators alone."""
    changed = [*subject.pair.changed, *subject.fresh.changed]
    if changed:
        raise Broken("; ".join(changed))
    return f"unchanged after strip, probe and forward at {format_shape(subject.pair.shape)}"
