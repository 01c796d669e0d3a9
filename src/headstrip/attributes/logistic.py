"""Regularised logistic regression: L-BFGS in float64, all classes and all strengths at once.

The objective is that of scikit-learn's ``LogisticRegression``: ``C`` times the sum of the log
losses, plus half the squared norm of the weight; the bias is not penalised. Two classes have two
logits here, and one logit in scikit-learn. The penalty is doubled for two classes, so that equal
``C`` gives equal probabilities.

L-BFGS (Nocedal 1980) starts from the inverse of an approximate Hessian in the principal axes of the
embeddings. The approximation gives every row the mean curvature of all rows. Without it, badly
scaled embeddings take hundreds of iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headstrip.attributes.standardize import Design

Loss = Literal["class", "labels"]

_MEMORY = 10
_SUFFICIENT = 1e-4
_HALVINGS = 40
_NOISE = 1e-14
"""Changes of an objective below this, relative to its size, are rounding errors."""

_SMALLEST = 1e-290

_FLATTEST = 1e-4
"""Smallest curvature to divide by: it is almost 0 if all probabilities are almost 0 or 1."""

_CHUNK_BYTES = 1 << 30
"""Memory for the strengths that are fitted at once.

It does not depend on the machine, so that results are equal to the last bit.
"""


@dataclass(frozen=True)
class Target:
    """The labels of the rows of a design.

    Attributes:
        loss: ``class``: softmax over the classes; ``labels``: one sigmoid per label.
        values: For ``class`` an int64 tensor of shape (N,); for ``labels`` a float64 tensor of
            zeros and ones of shape (N, outputs).
        weights: float64 tensor of shape (N,): the weight of each row.
        outputs: Number of logits.
    """

    loss: Loss
    values: Tensor
    weights: Tensor
    outputs: int


@dataclass(frozen=True)
class Tolerance:
    """When an optimisation has converged.

    Attributes:
        decrease: Largest estimate of how much the objective can still decrease.
        gradient: Largest component of the gradient.
        iterations: Number of iterations after which it stops without having converged.
    """

    decrease: float
    gradient: float
    iterations: int


COARSE = Tolerance(1e-5, 1e-4, 300)
"""The tolerance for the comparison of strengths by their log loss."""

FINE = Tolerance(1e-11, 1e-7, 1_000)
"""The tolerance for the predictor that is returned."""


@dataclass(frozen=True)
class Solution:
    """The optimum for each strength.

    Attributes:
        parameters: float64 tensor of shape (parameters + 1, S, outputs).
        converged: Whether each optimisation converged.
        iterations: Number of iterations of each.
        gradient: Largest component of each gradient.
    """

    parameters: Tensor
    converged: list[bool]
    iterations: list[int]
    gradient: list[float]


def fit_logistic(
    design: Design,
    target: Target,
    strengths: Sequence[float],
    tolerance: Tolerance,
    start: Tensor | None = None,
) -> Solution:
    """Minimise the objective for each strength.

    Args:
        design: The matrix.
        target: The labels of its rows.
        strengths: Values of ``C``; a smaller value is a stronger penalty.
        tolerance: When to stop.
        start: Parameters of shape (parameters + 1, outputs) to start from.
    """
    rows = len(design.features)
    size = max(1, _CHUNK_BYTES // bytes_per_strength(rows, design.parameters, target.outputs))
    parts = [
        _Minimizer(design, target, strengths[at : at + size], start).run(tolerance)
        for at in range(0, len(strengths), size)
    ]
    return Solution(
        torch.cat([one.parameters for one in parts], 1),
        [each for one in parts for each in one.converged],
        [each for one in parts for each in one.iterations],
        [each for one in parts for each in one.gradient],
    )


def bytes_per_strength(rows: int, columns: int, outputs: int) -> int:
    """Return how much memory the optimisation for one strength takes."""
    return 8 * outputs * (columns * (2 * _MEMORY + 8) + 6 * rows)


class _Minimizer:
    """The state of one run of L-BFGS over several strengths, each with its own history."""

    def __init__(
        self, design: Design, target: Target, strengths: Sequence[float], start: Tensor | None
    ) -> None:
        self.design, self.target = design, target
        total = target.weights.sum()
        is_binary = target.loss == "class" and target.outputs == 2
        given = torch.tensor(list(strengths), dtype=torch.float64)
        self.penalty = (2.0 if is_binary else 1.0) / (given * total)
        self.share = target.weights / total
        count = len(strengths)
        shape = (design.parameters, count, target.outputs)
        self.at = torch.zeros(shape, dtype=torch.float64)
        if start is not None:
            self.at += start[:, None, :]
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.active = torch.arange(count)
        self.found = torch.zeros(shape, dtype=torch.float64)
        self.converged, self.iterations = [False] * count, [0] * count
        self.gradients = [0.0] * count

    def run(self, tolerance: Tolerance) -> Solution:
        self.logits = self.design.logits(self.at)
        self.value = self._objective(self.logits, self.at)
        self.gradient = self._gradient()
        for iteration in range(tolerance.iterations + 1):
            direction = self._direction()
            slope = _dot(self.gradient, direction)
            largest = self.gradient.abs().amax((0, 2))
            done = (-slope / 2 <= tolerance.decrease) & (largest <= tolerance.gradient)
            self._finish(done, True, iteration, largest)
            if iteration == tolerance.iterations:
                self._finish(torch.ones_like(done), False, iteration, largest)
            keep = ~done if iteration < tolerance.iterations else torch.zeros_like(done)
            if not keep.any():
                break
            if not keep.all():
                direction, slope = direction[:, keep], slope[keep]
                largest = largest[keep]
                self._keep(keep)
            moved = self._step(direction, slope)
            if not moved.all():
                # No step decreased the objective by more than a rounding error.
                self._finish(~moved, largest <= 100 * tolerance.gradient, iteration, largest)
                if not moved.any():
                    break
                self._keep(moved)
        return Solution(self.found, self.converged, self.iterations, self.gradients)

    def _objective(self, logits: Tensor, parameters: Tensor) -> Tensor:
        if self.target.loss == "class":
            index = self.target.values[:, None, None].expand(-1, logits.shape[1], 1)
            losses = logits.logsumexp(2) - logits.gather(2, index)[:, :, 0]
        else:
            softplus = torch.nn.functional.softplus(logits, threshold=50)
            losses = (softplus - self.target.values[:, None, :] * logits).sum(2)
        weight = parameters[:-1]
        return self.share @ losses + self.penalty / 2 * _dot(weight, weight)

    def _gradient(self) -> Tensor:
        if self.target.loss == "class":
            self.chance = self.logits.softmax(2)
            errors = self.chance.clone()
            index = self.target.values[:, None, None].expand(-1, errors.shape[1], 1)
            errors.scatter_add_(2, index, torch.full_like(index, -1, dtype=torch.float64))
        else:
            self.chance = self.logits.sigmoid()
            errors = self.chance - self.target.values[:, None, :]
        errors *= self.share[:, None, None]
        gradient = self.design.gradient(errors)
        gradient[:-1] += self.penalty[:, None] * self.at[:-1]
        return gradient

    def _direction(self) -> Tensor:
        """Return minus the gradient times the approximate inverse of the Hessian."""
        vector, factors = self.gradient.clone(), []
        curvature = self._curvature()
        for step, change, inverse in reversed(self.pairs):
            factor = inverse * _dot(step, vector)
            vector -= factor[:, None] * change
            factors.append(factor)
        vector = self.design.scaled(vector, curvature, self.penalty)
        if self.pairs:
            step, change, inverse = self.pairs[-1]
            scaled = self.design.scaled(change, curvature, self.penalty)
            vector *= (1 / (inverse * _dot(change, scaled)))[:, None]
        for (step, change, inverse), factor in zip(self.pairs, reversed(factors), strict=True):
            vector += (factor - inverse * _dot(change, vector))[:, None] * step
        return -vector

    def _curvature(self) -> Tensor:
        """Return the mean second derivative of the loss along a change of logits, shape (S,)."""
        if self.target.loss == "class":
            # The trace of the Hessian, divided by the number of directions of logits that change a
            # probability.
            found = (1 - self.chance.square().sum(2)) / max(1, self.target.outputs - 1)
        else:
            found = (self.chance * (1 - self.chance)).mean(2)
        return (self.share @ found).clamp_min(_FLATTEST)

    def _step(self, direction: Tensor, slope: Tensor) -> Tensor:
        """Move along a direction, and return which strengths moved."""
        along = self.design.logits(direction)
        length = self._newton_length(along, direction, slope)
        noise = _NOISE * (1 + self.value.abs())
        moved = torch.zeros_like(slope, dtype=torch.bool)
        best = torch.zeros_like(slope)
        value = self.value.clone()
        for _ in range(_HALVINGS):
            trial = torch.where(moved, best, length)
            at = self.at + trial[:, None] * direction
            found = self._objective(self.logits + trial[None, :, None] * along, at)
            allowed = self.value + _SUFFICIENT * trial * slope + noise
            # A comparison with NaN is false, so an overflow halves the step.
            fits = ~moved & (found <= allowed)
            best, value = torch.where(fits, trial, best), torch.where(fits, found, value)
            moved |= fits
            if moved.all():
                break
            length = length / 2
        change = best[:, None] * direction
        self.at = self.at + change
        self.logits = self.logits + best[None, :, None] * along
        before, self.value = self.gradient, value
        self.gradient = self._gradient()
        self._note(change, self.gradient - before, moved)
        return moved

    def _newton_length(self, along: Tensor, direction: Tensor, slope: Tensor) -> Tensor:
        """Return the step length at which the quadratic model along a direction is smallest."""
        if self.target.loss == "class":
            mean = (self.chance * along).sum(2)
            spread = (self.chance * along.square()).sum(2) - mean.square()
        else:
            spread = (self.chance * (1 - self.chance) * along.square()).sum(2)
        weight = direction[:-1]
        second = self.share @ spread + self.penalty * _dot(weight, weight)
        length = -slope / second
        return torch.where(length.isfinite() & (length > 0), length, torch.ones_like(length))

    def _note(self, step: Tensor, change: Tensor, moved: Tensor) -> None:
        """Store a step and the change of the gradient over it."""
        product = _dot(step, change)
        usable = product > _SMALLEST
        if not (usable | ~moved).all():
            # The objective is convex, so a product that is not positive is a rounding error.
            self.pairs = []
            return
        inverse = torch.where(usable, 1 / product, torch.zeros_like(product))
        self.pairs = [*self.pairs[1 - _MEMORY :], (step, change, inverse)]

    def _finish(self, which: Tensor, converged: bool | Tensor, at: int, gradient: Tensor) -> None:
        for index in torch.nonzero(which)[:, 0].tolist():
            number = int(self.active[index])
            if self.iterations[number] or self.converged[number]:
                continue
            self.found[:, number] = self.at[:, index]
            is_converged = converged if isinstance(converged, bool) else bool(converged[index])
            self.converged[number], self.iterations[number] = is_converged, at
            self.gradients[number] = float(gradient[index])

    def _keep(self, which: Tensor) -> None:
        """Continue with the chosen strengths only."""
        self.active, self.penalty = self.active[which], self.penalty[which]
        self.at, self.logits = self.at[:, which], self.logits[:, which].contiguous()
        self.gradient, self.value = self.gradient[:, which], self.value[which]
        self.chance = self.chance[:, which]
        self.pairs = [
            (step[:, which], change[:, which], inverse[which])
            for step, change, inverse in self.pairs
        ]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Multiply two tensors of shape (columns, S, outputs) for each S."""
    return (one * other).sum(0).sum(1)
