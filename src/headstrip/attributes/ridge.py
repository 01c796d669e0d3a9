"""Ridge regression in closed form, for attributes that are numbers.

The objective is that of scikit-learn's ``Ridge`` with ``alpha = 1 / C``: the sum of the squared
errors, plus ``alpha`` times the squared norm of the weight; the bias is not penalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fit_ridge(standardized: Tensor, values: Tensor, strengths: Sequence[float]) -> list[Tensor]:
    """Minimise the objective for each strength.

    Args:
        standardized: float64 tensor of shape (N, dim), each column with the mean 0.
        values: float64 tensor of shape (N,).
        strengths: Values of ``C``; a smaller value is a stronger penalty.

    Returns:
        The weight of each strength, shape (dim, 1). The bias is the mean of the values.
    """
    rows, dim = standardized.shape
    centred = (values - values.mean())[:, None]
    is_wide = rows < dim
    # Solve (Z'Z + a) w = Z'y, or (ZZ' + a) v = y with w = Z'v, whichever matrix is smaller.
    gram = standardized @ standardized.T if is_wide else standardized.T @ standardized
    right = centred if is_wide else standardized.T @ centred
    found = []
    for strength in strengths:
        shifted = gram.clone()
        shifted.diagonal().add_(1 / strength)
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(shifted))
        found.append(standardized.T @ solved if is_wide else solved)
    return found
