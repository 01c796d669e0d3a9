"""Heads that are more than one layer, as modules that map (N, dim) to the network's own logits.

They hold the network's own layers, not copies, and compute what the network's forward does with
them, operation by operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvolutionHead(nn.Module):
    """A 1x1 convolution that timm uses as a linear layer."""

    def __init__(self, convolution: nn.Module) -> None:
        """Keep the network's own layer."""
        super().__init__()
        self.convolution = convolution

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        logits: Tensor = self.convolution(embedding[:, :, None, None]).flatten(1)
        return logits


class AveragedHeads(nn.Module):
    """A head and its distilled twin, whose logits timm averages in eval mode."""

    def __init__(self, head: nn.Module, head_dist: nn.Module) -> None:
        """Keep the network's own layers."""
        super().__init__()
        self.head, self.head_dist = head, head_dist

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        logits: Tensor = (self.head(embedding) + self.head_dist(embedding)) / 2
        return logits


class BranchHeads(nn.Module):
    """CrossViT: a head for each branch, on its part of the embedding; the logits are averaged."""

    def __init__(self, heads: Sequence[nn.Module], widths: Sequence[int]) -> None:
        """Keep the network's own layers, and how wide each branch is."""
        super().__init__()
        self.heads, self.widths = nn.ModuleList(heads), list(widths)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        parts = torch.split(embedding, self.widths, dim=1)
        logits = [head(part) for head, part in zip(self.heads, parts, strict=True)]
        return torch.mean(torch.stack(logits, dim=0), dim=0)


class StageHeads(nn.Module):
    """EfficientViM: a head for each stage, on its part; the logits are weighed by a softmax."""

    def __init__(
        self, heads: Sequence[nn.Module], weights: nn.Parameter, widths: Sequence[int]
    ) -> None:
        """Keep the network's own layers and weights, and how wide each stage is."""
        super().__init__()
        self.heads, self.weights, self.widths = nn.ModuleList(heads), weights, list(widths)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim) to logits (N, classes)."""
        parts, weights = torch.split(embedding, self.widths, dim=1), self.weights.softmax(-1)
        logits = [weights[i] * head(parts[i]) for i, head in enumerate(self.heads)]
        return torch.stack(logits).sum(0)


class MeanOverPositions(nn.Module):
    """A network whose output has positions, and their mean.

    Its output is (N, dim, H, W) where ``channels_first``, else (N, L, dim) or (N, H, W, dim); one
    that is (N, dim) already, as options make it, stays.
    """

    def __init__(self, model: nn.Module, *, channels_first: bool) -> None:
        """Keep the network."""
        super().__init__()
        self.model, self.channels_first = model, channels_first

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, *input) to (N, dim)."""
        features: Tensor = self.model(x)
        if features.ndim == 2:
            return features
        return features.mean((2, 3)) if self.channels_first else features.flatten(1, -2).mean(1)


def pooled(features: Tensor, *, channels_first: bool) -> Tensor:
    """Compute what ``MeanOverPositions`` does, by another of torch's functions."""
    if features.ndim == 2:
        return features
    maps = features if channels_first else features.movedim(-1, 1)
    return functional.adaptive_avg_pool1d(maps.flatten(2), 1).flatten(1)
