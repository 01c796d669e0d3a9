"""Heads of more than one layer, as modules that map (N, dim) to the network's logits.

They contain the network's own layers, not copies, and perform the same operations as the network's
forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvolutionHead(nn.Module):
    """A 1x1 convolution that timm uses as a linear layer."""

    def __init__(self, convolution: nn.Module) -> None:
        """Keep the network's layer."""
        super().__init__()
        self.convolution = convolution

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        logits: Tensor = self.convolution(embedding[:, :, None, None]).flatten(1)
        return logits


class AveragedHeads(nn.Module):
    """A head and a distillation head, whose logits timm averages in eval mode."""

    def __init__(self, head: nn.Module, head_dist: nn.Module) -> None:
        """Keep the network's layers."""
        super().__init__()
        self.head, self.head_dist = head, head_dist

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        logits: Tensor = (self.head(embedding) + self.head_dist(embedding)) / 2
        return logits


class BranchHeads(nn.Module):
    """The heads of CrossViT: one per branch, on its slice of the embedding. Logits are averaged."""

    def __init__(self, heads: Sequence[nn.Module], widths: Sequence[int]) -> None:
        """Keep the network's layers and the width of each branch."""
        super().__init__()
        self.heads, self.widths = nn.ModuleList(heads), list(widths)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        parts = torch.split(embedding, self.widths, dim=1)
        logits = [head(part) for head, part in zip(self.heads, parts, strict=True)]
        return torch.mean(torch.stack(logits, dim=0), dim=0)


class StageHeads(nn.Module):
    """The heads of EfficientViM: one per stage, with logits weighted by a softmax."""

    def __init__(
        self, heads: Sequence[nn.Module], weights: nn.Parameter, widths: Sequence[int]
    ) -> None:
        """Keep the network's layers and weights, and the width of each stage."""
        super().__init__()
        self.heads, self.weights, self.widths = nn.ModuleList(heads), weights, list(widths)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        parts, weights = torch.split(embedding, self.widths, dim=1), self.weights.softmax(-1)
        logits = [weights[i] * head(parts[i]) for i, head in enumerate(self.heads)]
        return torch.stack(logits).sum(0)


class MeanOverPositions(nn.Module):
    """A network whose output has positions, followed by the mean over them.

    The output is (N, dim, H, W) with ``channels_first``, else (N, L, dim) or (N, H, W, dim). An
    output that is already (N, dim), because of options, is returned unchanged.
    """

    def __init__(self, model: nn.Module, *, channels_first: bool) -> None:
        """Keep the network."""
        super().__init__()
        self.model, self.channels_first = model, channels_first

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, *input) to (N, dim)."""
        return self.pool(self.model(x))

    def pool(self, features: Tensor) -> Tensor:
        """Map the network's output to (N, dim)."""
        if features.ndim == 2:
            return features
        return features.mean((2, 3)) if self.channels_first else features.flatten(1, -2).mean(1)


def pooled(features: Tensor, *, channels_first: bool) -> Tensor:
    """Compute the same as ``MeanOverPositions`` with another function of torch."""
    if features.ndim == 2:
        return features
    maps = features if channels_first else features.movedim(-1, 1)
    return functional.adaptive_avg_pool1d(maps.flatten(2), 1).flatten(1)
