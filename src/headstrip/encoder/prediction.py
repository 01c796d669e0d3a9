"""The predictions for images: labels with probabilities, or numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headstrip.encoder.attribute import Attribute

if TYPE_CHECKING:
    import numpy as np

    from headstrip.encoder.predictors import Predictors

_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of one attribute for one image.

    Attributes:
        value: The most likely class; or a tuple of the labels whose probability is at least the
            threshold, in the order of the classes; or the number. A class without a name is its
            index as text.
        probability: Probability of the class, or a tuple with the probability of each label in
            ``value``; None for a number.

    Example:
        >>> Prediction("red", 0.9).value
        'red'
    """

    value: str | tuple[str, ...] | float
    probability: float | tuple[float, ...] | None


def probabilities_of(attribute: Attribute, logits: Tensor) -> Tensor:
    """Map logits (N, outputs) to float64 probabilities (N, outputs); numbers stay unchanged."""
    logits = logits.double()
    if attribute.kind == "class":
        return logits.softmax(1)
    return logits.sigmoid() if attribute.kind == "labels" else logits


def prediction_of(attribute: Attribute, row: Tensor, threshold: float = 0.5) -> Prediction:
    """Turn one row of ``probabilities_of`` into a prediction.

    Args:
        attribute: The attribute.
        row: float64 tensor of shape (outputs,).
        threshold: Smallest probability of a label that is returned, for the kind ``labels``.
    """
    if attribute.kind == "number":
        return Prediction(float(row[0]), None)
    if attribute.kind == "class":
        best = int(row.argmax())
        return Prediction(attribute.classes[best], float(row[best]))
    chosen = [index for index, value in enumerate(row.tolist()) if value >= threshold]
    return Prediction(
        tuple(attribute.classes[index] for index in chosen),
        tuple(float(row[index]) for index in chosen),
    )


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is not a probability.

    Raises:
        ValueError: It is not a number from 0 to 1.
    """
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a number from 0 to 1, such as 0.5, got {threshold!r}.")


def predict_embeddings(
    predictors: Predictors, embeddings: np.ndarray, threshold: float = 0.5
) -> Iterator[dict[str, Prediction]]:
    """Yield the predictions for each embedding, by attribute.

    Args:
        predictors: The predictors; each module must have the number of outputs of its attribute.
        embeddings: Array of shape (N, dim).
        threshold: As in ``prediction_of``.

    Raises:
        ValueError: ``threshold`` is not a probability, a module has another number of outputs than
            its attribute, or an embedding or a prediction is not finite.
    """
    check_threshold(threshold)
    for start in range(0, len(embeddings), _ROWS):
        found = probabilities_by_name(predictors, embeddings[start : start + _ROWS])
        for name, values in found.items():
            bad = torch.nonzero(~values.isfinite().all(1))
            if len(bad):
                raise ValueError(
                    f"Image {start + int(bad[0]) + 1} has no prediction of {name!r:.60}: its "
                    "embedding or the predictor has values that are not finite. Leave out such "
                    "images, or train the predictor again."
                )
        for row in range(len(embeddings[start : start + _ROWS])):
            yield {
                one.name: prediction_of(one, found[one.name][row], threshold)
                for one in predictors.attributes
            }


def probabilities_by_name(predictors: Predictors, embeddings: np.ndarray) -> dict[str, Tensor]:
    """Map embeddings (N, dim) to the result of ``probabilities_of`` for each attribute.

    Raises:
        ValueError: A module has another number of outputs than its attribute.
    """
    first = next(predictors.parameters(), None)
    with torch.inference_mode():
        batch = torch.from_numpy(embeddings)
        if first is not None:
            batch = batch.to(first.device, first.dtype)
        logits = predictors.predict(batch)
        for one in predictors.attributes:
            if logits[one.name].shape[1:] != (one.outputs,):
                raise ValueError(
                    f"The predictor of {one.name!r:.60} gives outputs of shape "
                    f"{tuple(logits[one.name].shape[1:])}, and the attribute has {one.outputs} "
                    "outputs. Use encoder.predict(x) for modules that you put in yourself."
                )
        return {
            one.name: probabilities_of(one, logits[one.name]).cpu() for one in predictors.attributes
        }
