"""Embeddings in the form that the solvers use, and the way back to a linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CONSTANT = 1e-6
"""A feature that varies less, relative to its size, is rounding error: that of float32 is 1e-7."""

_RANK = 1e-12
"""Smallest eigenvalue, relative to the largest, of an axis that is kept."""


@dataclass(frozen=True)
class Scale:
    """How embeddings are standardised.

    Attributes:
        mean: float64 tensor of shape (dim,).
        deviation: float64 tensor of shape (dim,); 1 for a constant feature.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Scale:
        """Measure float64 embeddings of shape (N, dim)."""
        mean = embeddings.mean(0)
        deviation = (embeddings - mean).square().mean(0).sqrt()
        return cls.from_moments(mean, deviation, embeddings.abs().amax(0))

    @classmethod
    def from_moments(cls, mean: Tensor, deviation: Tensor, size: Tensor) -> Scale:
        """Return the scale of embeddings with a mean, a deviation and a largest absolute value."""
        is_constant = deviation <= _CONSTANT * size
        return cls(mean, torch.where(is_constant, torch.ones_like(deviation), deviation))

    def apply(self, embeddings: Tensor) -> Tensor:
        """Standardise float64 embeddings of shape (N, dim); constant features become about 0."""
        return (embeddings - self.mean) / self.deviation

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a layer for standardised embeddings into one for embeddings.

        Args:
            weight: float64 tensor of shape (dim, outputs).
            bias: float64 tensor of shape (outputs,).

        Returns:
            Weight of shape (outputs, dim) and bias of shape (outputs,), as ``nn.Linear`` has them.
        """
        scaled = weight / self.deviation[:, None]
        return scaled.T.contiguous(), bias - self.mean @ scaled


@dataclass(frozen=True)
class Axes:
    """Principal axes of standardised embeddings.

    Attributes:
        vectors: float64 tensor of shape (dim, rank), orthonormal columns.
        values: Variance along each axis, shape (rank,).
    """

    vectors: Tensor
    values: Tensor

    @classmethod
    def of(cls, standardized: Tensor) -> Axes:
        """Compute all axes of at least as many rows as columns, shape (N, dim)."""
        values, vectors = torch.linalg.eigh(standardized.T @ standardized / len(standardized))
        return cls(vectors.contiguous(), values.clamp_min(0))


@dataclass(frozen=True)
class Design:
    """The matrix of a linear model.

    With fewer rows than dimensions the optimum is a combination of the rows, so that the model is
    solved exactly in their principal axes, of which there are fewer.

    Attributes:
        features: float64 tensor of shape (N, parameters + 1); the last column is 1.
        axes: Axes by which gradients are scaled. If ``is_reduced``, the columns of ``features`` are
            coordinates along them.
        is_reduced: Whether ``features`` are coordinates along ``axes``.
    """

    features: Tensor
    axes: Axes
    is_reduced: bool

    @classmethod
    def of(cls, standardized: Tensor, shared: Axes | None) -> Design:
        """Make the matrix of standardised embeddings.

        Args:
            standardized: float64 tensor of shape (N, dim).
            shared: Axes of similar embeddings, which save time if there are at least dim rows.
        """
        rows, dim = standardized.shape
        ones = torch.ones(rows, 1, dtype=torch.float64)
        if rows >= dim:
            axes = shared or Axes.of(standardized)
            return cls(torch.cat([standardized, ones], 1), axes, is_reduced=False)
        values, left = torch.linalg.eigh(standardized @ standardized.T / rows)
        kept = values > _RANK * values[-1].clamp_min(1e-300)
        values, left = values[kept], left[:, kept]
        lengths = (rows * values).sqrt()
        vectors = standardized.T @ (left / lengths)
        return cls(torch.cat([left * lengths, ones], 1), Axes(vectors, values), is_reduced=True)

    def weight_of(self, parameters: Tensor) -> Tensor:
        """Map parameters (parameters + 1, ...) to a weight (dim, ...), without the bias."""
        weight = parameters[:-1]
        if not self.is_reduced:
            return weight
        mapped: Tensor = torch.tensordot(self.axes.vectors, weight, 1)
        return mapped

    def parameters_of(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Map a weight (dim, outputs) and a bias (outputs,) to parameters to start from."""
        inner = self.axes.vectors.T @ weight if self.is_reduced else weight
        return torch.cat([inner, bias[None]])

    def scaled(self, gradient: Tensor, curvature: float, strength: Tensor) -> Tensor:
        """Multiply a gradient by the inverse of an upper bound of the Hessian.

        Args:
            gradient: float64 tensor of shape (parameters + 1, S, outputs).
            curvature: Largest second derivative of the loss with respect to a logit.
            strength: Strengths of the penalty, shape (S,).
        """
        inverse = 1 / (curvature * self.axes.values[:, None] + strength)
        shape = gradient.shape
        # Constant embeddings have no axes, and -1 cannot stand for a size then.
        inner = gradient[:-1].reshape(shape[0] - 1, shape[1] * shape[2])
        if not self.is_reduced:
            inner = self.axes.vectors.T @ inner
        rows = len(inverse)
        inner = inner.view(rows, *shape[1:]) * inverse[:, :, None]
        inner = inner.reshape(rows, shape[1] * shape[2])
        if not self.is_reduced:
            inner = self.axes.vectors @ inner
        inner = inner.view(shape[0] - 1, *shape[1:])
        return torch.cat([inner, gradient[-1:] / curvature])
