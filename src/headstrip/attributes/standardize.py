"""Embeddings in the form that the solvers use, and the way back to a linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CONSTANT = 1e-6
"""Relative variation below which a feature counts as constant: float32 rounds at 1e-7."""

_RANK = 1e-12
"""Smallest eigenvalue of an axis that is kept, relative to the largest eigenvalue."""


@dataclass(frozen=True)
class Scale:
    """The mean and the deviation by which embeddings are standardised.

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
        deviation = (embeddings - mean).square_().mean(0).sqrt()
        size = torch.maximum(embeddings.amax(0), -embeddings.amin(0))
        return cls.from_moments(mean, deviation, size)

    @classmethod
    def from_moments(cls, mean: Tensor, deviation: Tensor, size: Tensor) -> Scale:
        """Return the scale of embeddings with a mean, a deviation and a largest absolute value."""
        is_constant = deviation <= _CONSTANT * size
        return cls(mean, torch.where(is_constant, torch.ones_like(deviation), deviation))

    def apply(self, embeddings: Tensor) -> Tensor:
        """Standardise float64 embeddings of shape (N, dim); constant features become almost 0."""
        return (embeddings - self.mean).div_(self.deviation)

    def apply_(self, embeddings: Tensor) -> Tensor:
        """Standardise embeddings in place, and return them."""
        return embeddings.sub_(self.mean).div_(self.deviation)

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a layer for standardised embeddings into a layer for the original embeddings.

        Args:
            weight: float64 tensor of shape (dim, outputs).
            bias: float64 tensor of shape (outputs,).

        Returns:
            Weight of shape (outputs, dim) and bias of shape (outputs,), as ``nn.Linear`` has them.
        """
        scaled = weight / self.deviation[:, None]
        return scaled.T.contiguous(), bias - self.mean @ scaled


def standardize(embeddings: Tensor) -> tuple[Tensor, Scale]:
    """Standardise float64 embeddings of shape (N, dim) in place; return them and the scale."""
    scale = Scale.of(embeddings)
    return scale.apply_(embeddings), scale


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
        """Compute all axes of embeddings of shape (N, dim), with N at least dim."""
        values, vectors = torch.linalg.eigh((standardized.T @ standardized).div_(len(standardized)))
        return cls(vectors.contiguous(), values.clamp_min(0))


@dataclass(frozen=True)
class Design:
    """The matrix of a linear model, whose parameters are coordinates along principal axes.

    With fewer rows than dimensions, the optimum is a linear combination of the rows. So the model
    is solved exactly in the principal axes of the rows, which are fewer than the dimensions.
    Parameters have the shape (axes + 1, ...); the last row is the bias.

    Attributes:
        features: float64 tensor of shape (N, axes) if ``is_reduced``, else (N, dim).
        axes: The axes.
        is_reduced: Whether ``features`` are coordinates along the axes.
    """

    features: Tensor
    axes: Axes
    is_reduced: bool

    @classmethod
    def of(cls, standardized: Tensor, shared: Axes | None) -> Design:
        """Make the matrix of standardised embeddings.

        Args:
            standardized: float64 tensor of shape (N, dim).
            shared: Axes of similar embeddings, used to save time if there are at least dim rows.
        """
        rows, dim = standardized.shape
        if rows >= dim:
            return cls(standardized, shared or Axes.of(standardized), is_reduced=False)
        values, left = torch.linalg.eigh(standardized @ standardized.T / rows)
        kept = values > _RANK * values[-1].clamp_min(1e-300)
        values, left = values[kept], left[:, kept]
        lengths = (rows * values).sqrt()
        vectors = standardized.T @ (left / lengths)
        return cls(left * lengths, Axes(vectors, values), is_reduced=True)

    @property
    def parameters(self) -> int:
        """Number of parameters per output, including the bias."""
        return len(self.axes.values) + 1

    def weight_of(self, parameters: Tensor) -> Tensor:
        """Map parameters (axes + 1, outputs) to a weight (dim, outputs), without the bias."""
        return self.axes.vectors @ parameters[:-1]

    def parameters_of(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Map a weight (dim, outputs) and a bias (outputs,) to parameters to start from."""
        return torch.cat([(weight.T @ self.axes.vectors).T, bias[None]])

    def logits(self, parameters: Tensor) -> Tensor:
        """Map parameters (axes + 1, S, outputs) to logits (N, S, outputs)."""
        # The smaller matrix comes first, here and below: MKL is then up to four times as fast.
        flat = parameters.reshape(self.parameters, parameters[0].numel())
        weight = flat[:-1].T.contiguous()
        if not self.is_reduced:
            weight = weight @ self.axes.vectors.T
        found = (weight @ self.features.T).T.contiguous() + flat[-1]
        return found.reshape(-1, *parameters.shape[1:])

    def gradient(self, errors: Tensor) -> Tensor:
        """Map derivatives by the logits (N, S, outputs) to those by the parameters."""
        flat = errors.view(len(errors), errors[0].numel())
        inner = flat.T @ self.features
        if not self.is_reduced:
            inner = inner @ self.axes.vectors
        return torch.cat([inner.T, flat.sum(0, keepdim=True)]).view(-1, *errors.shape[1:])

    def scaled(self, gradient: Tensor, curvature: Tensor, strength: Tensor) -> Tensor:
        """Multiply a gradient by the inverse of an approximate Hessian.

        Args:
            gradient: float64 tensor of shape (axes + 1, S, outputs).
            curvature: Mean second derivative of the loss by the logits, shape (S,).
            strength: Strengths of the penalty, shape (S,).
        """
        hessian = torch.cat([curvature * self.axes.values[:, None] + strength, curvature[None]])
        return gradient / hessian[:, :, None]
