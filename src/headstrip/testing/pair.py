"""The pair of a proof: an untouched network, and a twin of it whose head is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.network.head import Stripped
from headstrip.testing.report import Broken
from headstrip.testing.states import digest, seed_generators

SMALL = 128
"""Side of the input, in pixels, for networks that take any size: the contract is the same."""

SMALL_CLIP = 8
"""Frames of a clip for networks that take any number."""

BATCH = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """What both networks gave for the same input, and what happened on the way.

    Attributes:
        untouched: The network with its head on, in eval mode.
        stripped: The parts of its twin, in eval mode.
        shape: Input without the batch axis.
        x: The input, of shape (3, *shape).
        output: What the untouched network gave for it, before the twin was stripped.
        embedding: What the twin's backbone gave.
        dim: Width of the embedding as the probe saw it.
        unequal: Names of tensors that differed between two builds of one seed.
        changed: What strip, probe and embedding changed besides taking the head off.
        states: Of the global generators after the first build.
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
        Broken: What comes out is no embedding.
    """
    # Tensors that inference mode leaves in a network's caches would break its gradients.
    with torch.no_grad():
        output = backbone(x)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise Broken(f"the backbone gave {found} for input {tuple(x.shape)} instead of (N, dim)")
    return output


def smaller(shape: tuple[int, ...], task: str) -> tuple[int, ...]:
    """Return an input of the same kind that is no larger than the contract needs."""
    frames = (min(shape[1], SMALL_CLIP),) if task == "video" else ()
    return (shape[0], *frames, *(min(side, SMALL) for side in shape[-2:]))


def run(
    untouched: nn.Module, small: tuple[int, ...], declared: tuple[int, ...]
) -> tuple[tuple[int, ...], Tensor, Any]:
    """Run the untouched network on the small input where it takes that, else on the declared."""
    for shape in dict.fromkeys((small, declared)):
        seed_generators(3)
        x = torch.randn(BATCH, *shape)
        try:
            with torch.no_grad():
                output = untouched(x)
        except Exception as error:
            failure = error
            continue
        # Of a small input a deep network of random values may leave nothing to tell apart.
        if shape == declared or not isinstance(output, Tensor) or not output[0].equal(output[1]):
            return shape, x, output
    text = " ".join(str(failure).split())
    raise Broken(
        f"the untouched network failed on input {(BATCH, *declared)} with "
        f"{type(failure).__name__}: {text}"
    )


def unequal(one: nn.Module, other: nn.Module) -> tuple[str, ...]:
    """Name the tensors that two networks do not share in value."""
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
