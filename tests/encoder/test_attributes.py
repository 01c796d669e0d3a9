"""Attributes as data, and what their predictors predict for images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import pixels, tiny_encoder

from headstrip import Attribute, build_encoder
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.predictors import Predictors

COLOUR = Attribute("colour", "class", ("red", "blue"))
MARKS = Attribute("marks", "labels", ("dot", "line", "ring"))
AGE = Attribute("age", "number")


@pytest.fixture
def predicting() -> Encoder:
    """A tiny encoder with predictions that depend only on the biases."""
    encoder = tiny_encoder()
    encoder.predictors = Predictors(5, [COLOUR, MARKS, AGE])
    for layer, bias in zip(encoder.predictors, ([0.0, 1.0], [2.0, -2.0, 0.0], [41.5]), strict=True):
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(bias)
    return encoder


def test_classes_may_be_named_counted_or_given_as_attributes() -> None:
    named = Predictors(5, {"colour": ["red", "blue"], "shape": 3, "age": AGE})
    assert named.attributes == (COLOUR, Attribute("shape", "class", ("0", "1", "2")), AGE)
    assert [layer.out_features for layer in named] == [2, 3, 1]
    assert Predictors(5, [MARKS, AGE]).attributes == (MARKS, AGE)


def test_each_kind_of_attribute_has_its_form_of_prediction(predicting: Encoder) -> None:
    first, second = predicting.predict_labels([pixels(0), pixels(1)])
    assert first == second
    assert first["colour"].value == "blue"
    assert first["colour"].probability == pytest.approx(1 / (1 + np.exp(-1)))
    assert first["marks"].value == ("dot", "ring")
    assert first["marks"].probability == pytest.approx((1 / (1 + np.exp(-2)), 0.5))
    assert first["age"].value == 41.5
    assert first["age"].probability is None


def test_a_threshold_selects_the_labels(predicting: Encoder) -> None:
    (found,) = predicting.predict_labels([pixels(0)], threshold=0.6)
    assert found["marks"].value == ("dot",)
    (found,) = predicting.predict_labels([pixels(0)], threshold=0.0)
    assert found["marks"].value == MARKS.classes


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_a_threshold_that_is_not_a_probability_is_refused(
    predicting: Encoder, threshold: Any
) -> None:
    with pytest.raises(ValueError, match=r"threshold must be a number from 0 to 1, such as 0\.5"):
        predicting.predict_labels([pixels(0)], threshold=threshold)


def test_a_prediction_that_is_not_finite_is_refused(predicting: Encoder) -> None:
    with torch.no_grad():
        predicting.predictors["colour"].bias[0] = float("nan")
    with pytest.raises(ValueError, match="Image 1 has no prediction of 'colour': its embedding or"):
        predicting.predict_labels([pixels(0)])


def test_the_error_without_predictors_says_how_to_add_them() -> None:
    with pytest.raises(ValueError, match=r"no predictors\. Build it with predictors="):
        tiny_encoder().predict_labels([pixels(0)])


def test_the_error_names_a_predictor_that_does_not_fit_its_attribute(predicting: Encoder) -> None:
    assert predicting.predictors is not None
    predicting.predictors["colour"] = torch.nn.Linear(5, 7)
    with pytest.raises(ValueError, match=r"predictor of 'colour' gives outputs of shape \(7,\)"):
        predicting.predict_labels([pixels(0)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), r"name of an attribute must be a string, got 3"),
        (("a", "classes"), r"has the kind 'classes'\. Pass one of 'class', 'labels', 'number'"),
        (("a", "number", ("x",)), r"is a number, which has no classes"),
        (("a", "class"), r"'a' has no classes"),
        (("a", "labels", ()), r"'a' has no classes"),
        (("a", "class", "red"), r"must be a list of strings"),
        (("a", "class", ("x", 3)), r"must be a list of strings"),
        (("a", "class", ("x", "y", "x")), r"has the class 'x' twice"),
    ],
    ids=repr,
)
def test_an_invalid_attribute_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attribute(*arguments)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([AGE, AGE], r"has the attribute 'age' twice"),
        ({"size": AGE}, r"'size': an attribute with the name 'age'"),
        ({"a": []}, r"'a' has no classes"),
        ({"a": 10**12}, r"'a' with 1,000,000,000,000 classes, and headstrip accepts at most"),
    ],
    ids=repr,
)
def test_build_encoder_refuses_invalid_attributes(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_encoder("squeezenet1_1", weights=None, predictors=given)


def test_a_manifest_keeps_the_classes_and_kinds_of_attributes() -> None:
    encoder = build_encoder("squeezenet1_1", weights=None, predictors=[COLOUR, MARKS, AGE])
    described = encoder.manifest()["predictors"]
    assert [(one["kind"], one["labels"]) for one in described] == [
        ("class", ["red", "blue"]),
        ("labels", ["dot", "line", "ring"]),
        ("number", []),
    ]
    plain = build_encoder("squeezenet1_1", weights=None, predictors={"colour": 2})
    assert plain.manifest()["predictors"] == [{"name": "colour", "classes": 2, "trained": False}]
