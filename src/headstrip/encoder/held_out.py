"""The predictions of fitted predictors for the held-out images."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class HeldOut:
    """Predictions of one attribute for the held-out images.

    Attributes:
        paths: Paths of the N images.
        classes: Names of the classes or labels. Those that the predictor was not fitted to come
            last.
        truth: The labels in the table: index of a class (N,), bool (N, labels), or float64 (N,)
            for a number.
        predicted: The predictions, in the same form.
        probability: Probability of the predicted class (N,), or of each label (N, labels); None
            for a number.
        calibrated: Probability of the predicted class with the temperature (N,); None for labels
            and numbers.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    truth: np.ndarray = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    probability: np.ndarray | None = field(default=None, repr=False)
    calibrated: np.ndarray | None = field(default=None, repr=False)
