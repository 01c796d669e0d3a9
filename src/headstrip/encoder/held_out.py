"""What predictors predicted for the images that were held out when they were fitted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class HeldOut:
    """Predictions of one attribute for the images that were held out.

    Attributes:
        paths: Paths of the N images.
        classes: Names of the classes or labels. Classes that no fitted image has come last.
        truth: What the table says: index of a class (N,), bool (N, labels), or float64 (N,) for a
            number.
        predicted: What was predicted, in the same form.
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
