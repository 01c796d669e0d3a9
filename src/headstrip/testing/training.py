"""Gradients: whether the backbone can be trained through to its first layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.testing.proof import finite_embedding
from headstrip.testing.report import Broken
from headstrip.testing.subject import Subject


def gradient(subject: Subject) -> str:
    """A gradient reaches the first layer: finite, and not all zero."""
    finite_embedding(subject)
    pair = subject.pair
    backbone = pair.stripped.backbone
    with _first_layer(backbone) as seen, torch.enable_grad():
        x = pair.x[:1].clone().requires_grad_()
        embedding = backbone(x)
    if not embedding.requires_grad:
        raise Broken("the embedding has no gradient at all: something in the forward detaches it")
    name, parameters = _trained(seen, backbone, x)
    # The plain sum has no gradient through a last norm.
    direction = torch.linspace(-1, 1, embedding.numel()).reshape(embedding.shape)
    gradients = torch.autograd.grad(
        (embedding * direction).sum(), [*parameters.values()], allow_unused=True
    )
    largest = 0.0
    for parameter, found in zip(parameters, gradients, strict=True):
        if found is None:
            raise Broken(f"no gradient reaches {parameter!r} of the first layer, {name!r}")
        if not found.isfinite().all():
            raise Broken(f"the gradient of {parameter!r} of the first layer is not finite")
        largest = max(largest, float(found.abs().max()))
    if largest == 0:
        raise Broken(f"the gradient of the first layer, {name!r}, is zero")
    return f"reaches {name!r}"


def _trained(
    seen: list[tuple[str, nn.Module]], backbone: nn.Module, x: Tensor
) -> tuple[str, dict[str, Tensor]]:
    """Return the first layer that runs and trains, and its parameters; else the network's first."""
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
    """Note the layers that have parameters of their own, in the order in which they run."""
    seen: list[tuple[str, nn.Module]] = []
    handles = []
    for name, module in backbone.named_modules():
        if next(module.children(), None) is None and any(True for _ in module.parameters()):
            handles.append(module.register_forward_pre_hook(_noting(seen, name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _noting(seen: list[tuple[str, nn.Module]], name: str) -> Any:
    def note(module: nn.Module, inputs: Any) -> None:
        seen.append((name, module))

    return note
