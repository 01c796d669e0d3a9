"""``Predictors.loss``: which targets count, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from headstrip import Attribute
from headstrip.encoder.predictors import Predictors

NAN = float("nan")
ATTRIBUTES = [
    Attribute("colour", "class", ("red", "green", "blue")),
    Attribute("marks", "labels", ("dot", "ring")),
    Attribute("size", "number"),
]


@pytest.fixture
def predictors() -> Predictors:
    torch.manual_seed(0)
    return Predictors(4, ATTRIBUTES)


def targets_of(**changes: Any) -> dict[str, torch.Tensor]:
    return {
        "colour": torch.tensor([2, -1, 0]),
        "marks": torch.tensor([[1, 0], [NAN, NAN], [0, NAN]]),
        "size": torch.tensor([NAN, 1.5, -2.0]),
        **changes,
    }


def test_the_loss_is_the_mean_over_attributes_of_the_known_targets(predictors: Predictors) -> None:
    outputs = predictors.predict(torch.randn(3, 4))
    colour = functional.cross_entropy(outputs["colour"][[0, 2]], torch.tensor([2, 0]))
    marks = functional.binary_cross_entropy_with_logits(
        torch.stack([outputs["marks"][0, 0], outputs["marks"][0, 1], outputs["marks"][2, 0]]),
        torch.tensor([1.0, 0.0, 0.0]),
    )
    size = functional.mse_loss(outputs["size"][[1, 2], 0], torch.tensor([1.5, -2.0]))
    expected = (colour + marks + size) / 3
    torch.testing.assert_close(predictors.loss(outputs, targets_of()), expected)


def test_images_without_a_label_have_no_gradient(predictors: Predictors) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    loss = predictors.loss(predictors.predict(x), targets_of(size=torch.tensor([NAN, NAN, -2.0])))
    loss.backward()
    assert x.grad is not None
    assert x.grad[1].count_nonzero() == 0
    assert x.grad[[0, 2]].isfinite().all()


def test_a_batch_without_labels_has_a_loss_of_zero_and_can_be_trained(
    predictors: Predictors,
) -> None:
    nothing = targets_of(
        colour=torch.full((3,), -1), marks=torch.full((3, 2), NAN), size=torch.full((3,), NAN)
    )
    loss = predictors.loss(predictors.predict(torch.randn(3, 4)), nothing)
    loss.backward()
    assert loss == 0
    assert all(one.grad is not None and not one.grad.any() for one in predictors.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": torch.tensor([3, 0, 0])}, "go from 0 to 3, and it has 3 classes"),
        ({"colour": torch.tensor([-2, 0, 0])}, "go from -2 to 0"),
        ({"colour": torch.tensor([0.0, 1.0, 2.0])}, "must be indices of classes"),
        ({"colour": torch.tensor([[0], [1], [2]])}, r"targets of shape \(3, 1\)"),
        ({"marks": torch.tensor([0, 1, 0])}, r"targets \(N, labels\)"),
        ({"marks": torch.full((3, 2), -1.0)}, "must be 0, 1 or NaN"),
        ({"size": torch.zeros(2)}, r"targets of shape \(2,\)"),
        ({"weight": torch.zeros(3)}, "targets has 'weight', and there is no predictor"),
    ],
)
def test_invalid_targets_are_refused(
    predictors: Predictors, changes: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        predictors.loss(predictors.predict(torch.randn(3, 4)), targets_of(**changes))


def test_the_error_names_an_attribute_without_targets(predictors: Predictors) -> None:
    targets = targets_of()
    del targets["marks"]
    with pytest.raises(ValueError, match="targets lacks the attribute 'marks'"):
        predictors.loss(predictors.predict(torch.randn(3, 4)), targets)


def test_an_attribute_named_loss_loads_from_its_new_and_its_old_key() -> None:
    saved, other = Predictors(3, {"loss": 2, "colour": 4}), Predictors(3, {"loss": 2, "colour": 4})
    assert next(iter(saved.state_dict())) == "%6Coss.weight"
    state = {key.replace("%6C", "l"): value for key, value in saved.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(other["loss"].weight, saved["loss"].weight)
