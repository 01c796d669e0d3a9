"""Solve for the linear layer of one attribute of any kind, for several strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headstrip.attributes.logistic import (
    COARSE as COARSE,
)
from headstrip.attributes.logistic import (
    FINE as FINE,
)
from headstrip.attributes.logistic import (
    Target,
    Tolerance,
    bytes_per_strength,
    fit_logistic,
)
from headstrip.attributes.ridge import fit_ridge
from headstrip.attributes.standardize import Axes, Design, Scale
from headstrip.encoder.attribute import Kind

Layer = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layers:
    """Layers for embeddings before standardisation, one per strength.

    Attributes:
        weights: float64 tensor of shape (S, outputs, dim).
        biases: float64 tensor of shape (S, outputs); minus infinity for a class without rows.
        converged: Whether each optimisation converged.
        iterations: Number of iterations of each.
        gradients: Largest component of the gradient of each.
    """

    weights: Tensor
    biases: Tensor
    converged: list[bool]
    iterations: list[int]
    gradients: list[float]

    def outputs(self, at: int, embeddings: Tensor) -> np.ndarray:
        """Map float64 embeddings (N, dim) to the outputs (N, outputs) of one strength."""
        found: np.ndarray = (embeddings @ self.weights[at].T + self.biases[at]).numpy()
        return found

    def start(self, at: int) -> Layer:
        """Return the layer of one strength, for another optimisation to start from."""
        biases = self.biases[at]
        return self.weights[at], torch.where(biases.isfinite(), biases, torch.zeros_like(biases))


def bytes_to_solve(rows: int, dim: int, outputs: int) -> int:
    """Return how much memory the optimisation for one strength takes."""
    return bytes_per_strength(rows, dim + 1, outputs)


def solve(
    embeddings: Tensor,
    values: np.ndarray,
    kind: Kind,
    outputs: int,
    strengths: Sequence[float],
    tolerance: Tolerance,
    *,
    axes: Axes | None,
    is_balanced: bool,
    start: Layer | None = None,
    scale: Scale | None = None,
) -> Layers:
    """Fit one layer per strength.

    Args:
        embeddings: float64 tensor of shape (N, dim).
        values: Labels: indices (N,) for ``class``, bool (N, outputs) for ``labels``, float64 (N,)
            for ``number``.
        kind: The kind.
        outputs: Number of outputs.
        strengths: Values of ``C``.
        tolerance: When to stop.
        axes: Principal axes of similar embeddings; None to compute them from ``embeddings``.
        is_balanced: Whether the weight of a row is the inverse of the frequency of its class.
        start: A layer to start from, for embeddings before standardisation.
        scale: The scale of ``embeddings`` if they are standardised already; None to standardise
            them here.
    """
    if scale is None:
        scale = Scale.of(embeddings)
        embeddings = scale.apply(embeddings)
    if kind == "number":
        return _numbers(embeddings, scale, values, strengths)
    fitted, constant = _fitted_outputs(kind, values, outputs)
    weights = torch.zeros(len(strengths), outputs, embeddings.shape[1], dtype=torch.float64)
    biases = constant.repeat(len(strengths), 1)
    count = len(strengths)
    if not len(fitted):
        return Layers(weights, biases, [True] * count, [0] * count, [0.0] * count)
    design = Design.of(embeddings, axes)
    del embeddings
    target = _target(kind, values, fitted, is_balanced)
    begin = None if start is None else _begin(design, scale, start, fitted)
    solution = fit_logistic(design, target, strengths, tolerance, begin)
    for at in range(count):
        found = solution.parameters[:, at]
        weight, bias = scale.folded(design.weight_of(found), found[-1])
        weights[at, fitted], biases[at, fitted] = weight, bias
    return Layers(weights, biases, solution.converged, solution.iterations, solution.gradient)


def _numbers(
    standardized: Tensor, scale: Scale, values: np.ndarray, strengths: Sequence[float]
) -> Layers:
    numbers = torch.from_numpy(values)
    layers = [
        scale.folded(weight, numbers.mean()[None])
        for weight in fit_ridge(standardized, numbers, strengths)
    ]
    count = len(strengths)
    return Layers(
        torch.stack([weight for weight, _ in layers]),
        torch.stack([bias for _, bias in layers]),
        [bool(weight.isfinite().all()) for weight, _ in layers],
        [0] * count,
        [0.0] * count,
    )


def _fitted_outputs(kind: Kind, values: np.ndarray, outputs: int) -> tuple[Tensor, Tensor]:
    """Return which outputs are fitted, and a bias for the others, whose optimum is at infinity.

    A class without rows is never predicted. A label that all rows or no rows have gets a
    probability close to 1 or 0, by Jeffreys' rule.
    """
    if kind == "class":
        constant = torch.full((outputs,), -torch.inf, dtype=torch.float64)
        return torch.from_numpy(np.unique(values)), constant
    positive = values.sum(0)
    share = torch.from_numpy((positive + 0.5) / (len(values) + 1))
    return torch.from_numpy(
        np.flatnonzero((positive > 0) & (positive < len(values)))
    ), share.logit()


def _target(kind: Kind, values: np.ndarray, fitted: Tensor, is_balanced: bool) -> Target:
    rows, outputs = len(values), len(fitted)
    weights = torch.ones(rows, dtype=torch.float64)
    if kind == "labels":
        chosen = torch.from_numpy(values[:, fitted.numpy()]).double()
        return Target("labels", chosen, weights, outputs)
    index = torch.searchsorted(fitted, torch.from_numpy(values))
    if is_balanced:
        counts = torch.bincount(index, minlength=outputs)
        weights = (rows / (outputs * counts.double()))[index]
    return Target("class", index, weights, outputs)


def _begin(design: Design, scale: Scale, start: Layer, fitted: Tensor) -> Tensor:
    """Return the parameters to start from, for a layer for embeddings before standardisation."""
    weight, bias = start[0][fitted].T, start[1][fitted]
    return design.parameters_of(weight * scale.deviation[:, None], bias + scale.mean @ weight)
