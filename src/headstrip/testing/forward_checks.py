"""Checks that run the network: logits against the untouched network, batches, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.registry.catalog import format_shape
from headstrip.system.arguments import type_of
from headstrip.testing.pair import Pair
from headstrip.testing.report import CheckFailed, CheckNotRun
from headstrip.testing.subject import Subject

ROUNDING = 1e-6
"""Largest difference for the head fidelity ``rounding``, relative to the largest logit."""

BATCHES = 1e-4
"""Largest difference between batches of one and of three, relative to the largest number."""


def lossless(subject: Subject) -> str:
    """The head gives the untouched network's logits from the embedding, as its ``law`` states."""
    pair, law = subject.pair, subject.pair.stripped.law
    if law in {"exact", "rounding"}:
        what, found, expected = "logits", _logits(pair), pair.output
    else:
        what, found, expected = "embedding", pair.embedding, _expected(subject, pair)
    shape = tuple(expected.shape) if isinstance(expected, Tensor) else type(expected).__name__
    if shape != tuple(found.shape):
        raise CheckFailed(f"the {what} have the shape {tuple(found.shape)} instead of {shape}")
    _check_values("embedding", pair.embedding)
    _check_values(what, found)
    largest = relative_difference(found, expected)
    if not (largest <= ROUNDING if law == "rounding" else torch.equal(found, expected)):
        allowed = f"at most {ROUNDING:g}" if law == "rounding" else "none, bit for bit"
        raise CheckFailed(
            f"the {what} differ from the untouched network's by {largest:.1e} relative, but the "
            f"head fidelity law={law!r} allows {allowed}"
        )
    equal = "within rounding" if law == "rounding" else "bit for bit"
    return f"{found.shape[1]} {'logits' if what == 'logits' else 'numbers'} equal {equal}"


def _logits(pair: Pair) -> Tensor:
    if pair.stripped.head is None:
        raise CheckFailed(f"strip_head states law={pair.stripped.law!r}, but there is no head")
    with torch.no_grad():
        logits: Any = pair.stripped.head(pair.embedding)
    if not isinstance(logits, Tensor):
        raise CheckFailed(f"the head gives {type_of(logits)} instead of a tensor of logits")
    return logits


def _expected(subject: Subject, pair: Pair) -> Any:
    """Return the expected embedding: the untouched network's output, or the hook reference."""
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
        raise CheckFailed(f"{broken} of {values.numel()} numbers of the {what} are not finite")
    if torch.equal(values[0], values[1]):
        raise CheckFailed(f"the {what} of two different inputs are the same")


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest expected number."""
    scale = float(expected.abs().max()) or 1.0
    return float((found.to(expected.dtype) - expected).abs().max()) / scale


def finite_embedding(subject: Subject) -> Tensor:
    """Return the embedding of the first input, computed in a batch of one.

    Raises:
        CheckNotRun: The embedding is not finite, so it cannot be compared.
    """
    if not subject.single_embedding.isfinite().all():
        raise CheckNotRun("the embedding is not finite, so it cannot be compared")
    return subject.single_embedding


def batch(subject: Subject) -> str:
    """The embedding of an image does not depend on the other images in its batch."""
    alone, among = finite_embedding(subject), subject.pair.embedding[:1]
    largest = relative_difference(among, alone)
    if not largest <= BATCHES:
        raise CheckFailed(
            f"an input has another embedding in a batch of {len(subject.pair.x)} than alone: they "
            f"differ by {largest:.1e} relative, and rounding explains at most {BATCHES:g}"
        )
    return f"differ by {largest:.1e} relative"


def state(subject: Subject) -> str:
    """Stripping and an eval forward pass do not change flags, tensors or generators."""
    changed = [*subject.pair.changed, *subject.fresh.changed]
    if changed:
        raise CheckFailed("; ".join(changed))
    return f"unchanged after stripping and a forward pass at {format_shape(subject.pair.shape)}"


def gradient(subject: Subject) -> str:
    """A gradient reaches the first layer. It is finite and not zero everywhere."""
    finite_embedding(subject)
    pair = subject.pair
    backbone = pair.stripped.backbone
    with _first_layer(backbone) as seen, torch.enable_grad():
        x = pair.x[:1].clone().requires_grad_()
        embedding = backbone(x)
    if not embedding.requires_grad:
        raise CheckFailed(
            "the embedding has no gradient at all: something in the forward pass detaches it"
        )
    name, parameters = _first_trainable(seen, backbone, x)
    # With a norm at the end of the network, the gradient of a plain sum would be zero.
    direction = torch.linspace(-1, 1, embedding.numel()).reshape(embedding.shape)
    gradients = torch.autograd.grad(
        (embedding * direction).sum(), [*parameters.values()], allow_unused=True
    )
    largest = 0.0
    for parameter, found in zip(parameters, gradients, strict=True):
        if found is None:
            raise CheckFailed(f"no gradient reaches {parameter!r} of the first layer, {name!r}")
        if not found.isfinite().all():
            raise CheckFailed(f"the gradient of {parameter!r} of the first layer is not finite")
        largest = max(largest, float(found.abs().max()))
    if largest == 0:
        raise CheckFailed(f"the gradient of the first layer, {name!r}, is zero")
    return f"reaches {name!r}"


def _first_trainable(
    seen: list[tuple[str, nn.Module]], backbone: nn.Module, x: Tensor
) -> tuple[str, dict[str, Tensor]]:
    """Return the first layer that runs and has trainable parameters, and these parameters."""
    for name, layer in seen:
        own: dict[str, Tensor] = {
            key: value
            for key, value in layer.named_parameters(recurse=False)
            if value.requires_grad
        }
        if own:
            return name, own
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            return name, {name: parameter}
    return "the input", {"the input": x}


@contextmanager
def _first_layer(backbone: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Record the layers with parameters, in the order in which they run."""
    seen: list[tuple[str, nn.Module]] = []
    handles = []
    for name, module in backbone.named_modules():
        if next(module.children(), None) is None and any(True for _ in module.parameters()):
            handles.append(module.register_forward_pre_hook(_recorder(seen, name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _recorder(seen: list[tuple[str, nn.Module]], name: str) -> Any:
    def record(module: nn.Module, inputs: Any) -> None:
        seen.append((name, module))

    return record
