"""An untouched network and its twin: a second build of it whose head is removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.network.head import Stripped
from headstrip.testing.report import CheckFailed
from headstrip.testing.states import digest, seed_generators

SMALL = 128
"""Side of the input in pixels, for networks that take any size. A small input is faster."""

SMALL_CLIP = 8
"""Frames of a clip, for networks that take any number."""

BATCH = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """The outputs of both networks for the same input, and the changes that stripping caused.

    Attributes:
        untouched: The network with its head, in eval mode.
        stripped: Backbone and head of the twin, in eval mode.
        shape: Input without the batch axis.
        x: The input, of shape (3, *shape).
        output: Output of the untouched network, computed before the twin was stripped.
        embedding: Output of the twin's backbone.
        dim: Width of the embedding, measured without a real forward pass.
        unequal: Names of the tensors that differed between two builds with the same seed.
        changed: Phrases for the changes by stripping, by measuring the width and by the forward
            pass, other than the removal of the head.
        states: States of the global generators after the first build.
    """

    untouched: nn.Module
    stripped: Stripped
    shape: tuple[int, ...]
    x: Tensor
    output: Any
    embedding: Tensor
    dim: int
    unequal: tuple[str, ...]
    changed: tuple[str, ...]
    states: dict[str, Any]

    def embed(self, x: Tensor) -> Tensor:
        """Return the embedding of a batch."""
        return embedding_of(self.stripped.backbone, x)


def embedding_of(backbone: nn.Module, x: Tensor) -> Tensor:
    """Return the embedding of a batch, a tensor of shape (N, dim).

    Raises:
        CheckFailed: The output is not such a tensor.
    """
    # In inference mode a network may cache tensors, and these would break gradients later.
    with torch.no_grad():
        output = backbone(x)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise CheckFailed(
            f"the backbone gave {found} for input {tuple(x.shape)} instead of (N, dim)"
        )
    return output


def smaller_shape(shape: tuple[int, ...], task: str) -> tuple[int, ...]:
    """Return a smaller input shape of the same kind, which is enough for the checks."""
    frames = (min(shape[1], SMALL_CLIP),) if task == "video" else ()
    return (shape[0], *frames, *(min(side, SMALL) for side in shape[-2:]))


def run_untouched(
    untouched: nn.Module, small: tuple[int, ...], declared: tuple[int, ...]
) -> tuple[tuple[int, ...], Tensor, Any]:
    """Run the untouched network on the small input, or on the declared one if that fails.

    Returns:
        The input shape, the input and the output.
    """
    for shape in dict.fromkeys((small, declared)):
        seed_generators(3)
        x = torch.randn(BATCH, *shape)
        try:
            with torch.no_grad():
                output = untouched(x)
        except Exception as error:
            failure = error
            continue
        # A deep network with random values may give equal outputs for small inputs.
        if shape == declared or not isinstance(output, Tensor) or not output[0].equal(output[1]):
            return shape, x, output
    text = " ".join(str(failure).split())
    raise CheckFailed(
        f"the untouched network failed on input {(BATCH, *declared)} with "
        f"{type(failure).__name__}: {text}"
    )


def unequal_tensors(one: nn.Module, other: nn.Module) -> tuple[str, ...]:
    """Return the names of the tensors that differ between two networks."""
    first, second = one.state_dict(), other.state_dict()
    names = [*first, *(name for name in second if name not in first)]
    return tuple(
        name
        for name in names
        if name not in first or name not in second or not _same(first[name], second[name])
    )


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    return one.shape == other.shape and digest(one) == digest(other)
