"""Embeddings with labels that depend on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstrip.attributes.solving import FINE, solve


def clusters(
    rows: int, dim: int, classes: int, seed: int = 0, noise: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 embeddings (rows, dim) of badly scaled features, and their classes."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, rows)
    centres = generator.normal(size=(classes, dim))
    points = centres[truth] + noise * generator.normal(size=(rows, dim))
    scales = np.exp(generator.normal(size=dim))
    return (points * scales + 3 * generator.normal(size=dim)).astype(np.float32), truth


def names(rows: int) -> list[str]:
    return [f"photos/{row:05d}.jpg" for row in range(rows)]


def layers(embeddings: np.ndarray, values: np.ndarray, kind: Any, outputs: int, *c: float) -> Any:
    """Fit layers with each strength, to full precision."""
    import torch

    points = torch.from_numpy(embeddings).double()
    return solve(points, values, kind, outputs, c, FINE, axes=None, is_balanced=False)
