"""headstrip writes every field of a manifest, and refuses each field that has a wrong value."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.conftest import tiny_encoder
from torch import nn

from headstrip import Encoder, ManifestError, WeightsEntry, __version__
from headstrip.encoder.manifest import (
    as_json,
    checked,
    has_trained_predictors,
    is_json,
    manifest_of,
    predictor_classes,
)
from headstrip.encoder.predictors import Predictors

HASH = "0123456789abcdef" * 4
WEIGHTS = {"tag": "V1", "sha256": HASH, "file": "mine.pth", "key": None}
COLOUR = {"name": "colour", "classes": 3, "trained": False}
MANIFEST: dict[str, Any] = {
    "format": 1,
    "name": "torchvision:tiny.V1",
    "weights": WEIGHTS,
    "options": {},
    "not_json": {},
    "preprocessing": None,
    "dtype": "float32",
    "input_shape": [3, 8, 8],
    "law": "exact",
    "output_dim": 5,
    "predictors": [],
    "identity": HASH,
    "versions": {"torch": "2.10"},
}


def without(fields: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != key}


NAME = "a backbone's name"
OPTIONS = "an object of constructor arguments"
DESCRIPTIONS = "an object of descriptions"
VERSIONS = "an object of versions"
FILE = "an object with tag, sha256 and file"
DTYPE = "a floating-point type such as 'float32'"
SIZES = "a list of sizes"
LAW = "one of exact, rounding, declared, headless"
COUNT = "a positive integer"
PREDICTORS = "a list of objects with name, classes and trained"
NOT_A_HASH = (7, HASH[:-1], HASH + "0", HASH.upper(), HASH[:-1] + "g")
NOT_TEXTS = (
    None,
    [],
    "x",
    {"a": 1},
    {"a": ""},
    {"": "a"},
    {1: "a"},
    {"a": "x" * 1001},
)
REFUSED = [
    *(("name", NAME, value) for value in (None, 7, "", "x" * 1001)),
    *(("weights", FILE, value) for value in (None, "V1", [], ["tag", "sha256", "file"])),
    *(("weights", FILE, without(WEIGHTS, key)) for key in ("tag", "sha256", "file")),
    *(("weights", FILE, {**WEIGHTS, "key": value}) for value in (7, [], "x" * 1001)),
    *(("weights", FILE, {**WEIGHTS, "tag": value}) for value in (7, "", "x" * 1001)),
    *(("weights", FILE, {**WEIGHTS, "file": value}) for value in (7, "", "x" * 1001)),
    *(("weights", FILE, {**WEIGHTS, "sha256": value}) for value in NOT_A_HASH),
    *(("options", OPTIONS, value) for value in (None, [], "x", {1: 2}, {"a": float("nan")})),
    *(("not_json", DESCRIPTIONS, value) for value in NOT_TEXTS),
    *(("preprocessing", "an object, or null", value) for value in (7, [], {"a": float("inf")})),
    *(("dtype", DTYPE, value) for value in (None, 7, "", "float33", "int64", "nn", "Tensor")),
    *(("input_shape", SIZES, value) for value in (None, [], (3, 8), "38", [3, 0], [3, 8.0])),
    *(("law", LAW, value) for value in (None, 7, "", "Exact", [])),
    *(("output_dim", COUNT, value) for value in (None, 0, -1, 5.0, "5", True)),
    *(("predictors", PREDICTORS, value) for value in (None, {}, 7, [7], ["ab"], [None])),
    *(("predictors", PREDICTORS, [without(COLOUR, key)]) for key in COLOUR),
    *(("predictors", PREDICTORS, [{**COLOUR, "name": value}]) for value in (7, "x" * 1001)),
    *(("predictors", PREDICTORS, [{**COLOUR, "classes": value}]) for value in (None, 0, True)),
    *(("predictors", PREDICTORS, [{**COLOUR, "trained": value}]) for value in (None, 1, "yes")),
    *(("predictors", PREDICTORS, [value]) for value in (["a"], ["a", 2, 3], ["a", 0], [1, 2])),
    ("predictors", PREDICTORS, [("a", 2)]),
    *(("predictors", PREDICTORS, [COLOUR, value]) for value in (COLOUR, ["colour", 4], 7)),
    *(("identity", "a sha256", value) for value in (None, *NOT_A_HASH)),
    *(("versions", VERSIONS, value) for value in NOT_TEXTS),
    *(("head", "a sha256, or null", value) for value in NOT_A_HASH),
    *(("frozen", "true or false", value) for value in (None, 1, "true")),
    *(("labels", "a list of names, or null", value) for value in ("cat", [1], [""], {})),
]


@pytest.mark.parametrize(("key", "words", "value"), REFUSED)
def test_the_error_names_a_field_with_a_wrong_value_and_says_what_it_must_be(
    key: str, words: str, value: object
) -> None:
    with pytest.raises(ManifestError) as caught:
        checked({**MANIFEST, key: value}, "The file")
    assert str(caught.value) == (
        f"The file is damaged: {key!r} must be {words}, and is {value!r:.100}. Write "
        "encoder.manifest() again."
    )


@pytest.mark.parametrize("key", [key for key in MANIFEST if key != "format"])
def test_the_error_names_a_missing_field(key: str) -> None:
    with pytest.raises(ManifestError, match=rf"The file is damaged: '{key}' must .* is nothing\."):
        checked(without(MANIFEST, key), "The file")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x"},
        {"name": "x" * 1000},
        {"weights": {"tag": None, "sha256": None, "file": None}},
        {"weights": {**WEIGHTS, "more": 7}},
        {"options": {"a": [1, None, {"b": (2.5, True)}]}},
        {"not_json": {"a": "<class 'torch.nn.ReLU'>"}},
        {"preprocessing": {"crop": [8, 8]}},
        {"dtype": "bfloat16"},
        {"input_shape": [1]},
        {"output_dim": 1},
        {"predictors": [COLOUR, {**COLOUR, "name": ""}, ["x" * 1000, 1]]},
        {"versions": {}},
        {"head": None, "frozen": True},
        {"head": HASH, "frozen": False},
        {"labels": None},
        {"labels": ["cat", "dog"]},
        {"weights": {**WEIGHTS, "key": ""}},
        {"of a later version": 7},
    ],
)
def test_a_valid_manifest_is_returned_as_a_copy(changes: dict[str, Any]) -> None:
    manifest = {**MANIFEST, **changes}
    copy = checked(manifest, "The file")
    assert copy == manifest
    assert copy is not manifest


@pytest.mark.parametrize("content", [None, [], "format", ["format"], {}, {"Format": 1}])
def test_content_without_a_format_is_refused(content: object) -> None:
    with pytest.raises(ManifestError) as caught:
        checked(content, "The file")
    assert str(caught.value) == (
        "The file is not a manifest: it has no 'format'. Pass what encoder.manifest() returns."
    )


@pytest.mark.parametrize("value", [0, 2, "1", None, "x" * 200])
def test_the_error_names_an_unknown_format_and_the_supported_one(value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        checked({**MANIFEST, "format": value}, "The file")
    assert str(caught.value) == (
        f"The file has the format {value!r:.100} of manifests, and headstrip {__version__} reads "
        "the format 1. Install the version of headstrip that the manifest states under 'versions'."
    )


def test_a_manifest_with_an_oversized_integer_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"The file is damaged: it has an integer of more than"):
        checked({**MANIFEST, "output_dim": 10**30}, "The file")


@pytest.mark.parametrize(
    "value", [None, True, 7, 2.5, "x", [], (), {}, {"a": [1, (2, {"b": None})]}, [[], {}]]
)
def test_values_that_json_preserves_are_recognised(value: object) -> None:
    assert is_json(value)
    assert json.loads(json.dumps(value)) == as_json(value)


class Whole(int):
    """A number that JSON reads back as another type."""


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        Whole(7),
        {1: 2},
        {"a": 1, 2: 3},
        {"a": {1}},
        [1, object()],
        (1, b"x"),
        OrderedDict(a=1),
        torch.float32,
    ],
)
def test_values_that_json_does_not_preserve_are_recognised(value: object) -> None:
    assert not is_json(value)


def test_tuples_become_lists_at_any_depth() -> None:
    assert as_json({"a": ((1, [(2,)]), "x"), "b": None}) == {"a": [[1, [[2]]], "x"], "b": None}


def test_predictors_in_the_current_and_the_old_form_have_their_classes() -> None:
    manifest = {"predictors": [COLOUR, ["type", 4]]}
    assert predictor_classes(manifest) == {"colour": 3, "type": 4}


@pytest.mark.parametrize(
    ("predictors", "trained"),
    [
        ([], False),
        ([COLOUR], False),
        ([COLOUR, {**COLOUR, "trained": True}], True),
        ([["type", 4]], True),
    ],
)
def test_predictors_count_as_trained_unless_the_manifest_says_otherwise(
    predictors: list[Any], trained: bool
) -> None:
    assert has_trained_predictors({"predictors": predictors}) is trained


def described(name: str = "tiny", **changes: Any) -> Encoder:
    """Return an encoder of one layer that claims to be from torchvision."""
    encoder = tiny_encoder()
    encoder.spec = replace(
        encoder.spec, name=name, source="torchvision", family="resnet", plugin="resnet"
    )
    for key, value in changes.items():
        setattr(encoder, key, value)
    return encoder


def test_a_manifest_describes_each_part_of_the_encoder() -> None:
    encoder = described(
        weights=WeightsEntry("V1"),
        weights_sha256=HASH,
        weights_file="mine.pth",
        options={"sizes": (1, 2), "norm": nn.ReLU, "act": object()},
    )
    preprocessing, fingerprint = encoder.preprocessing, encoder.fingerprint
    assert preprocessing is not None
    assert manifest_of(encoder) == {
        "format": 1,
        "name": "torchvision:tiny.V1",
        "weights": WEIGHTS,
        "options": {"sizes": [1, 2]},
        "not_json": {
            "norm": "<class 'torch.nn.modules.activation.ReLU'>",
            "act": "<object object>",
        },
        "preprocessing": preprocessing.to_json(),
        "dtype": "float32",
        "input_shape": [3, 8, 8],
        "law": "headless",
        "output_dim": 5,
        "predictors": [],
        "head": None,
        "frozen": False,
        "labels": None,
        "identity": fingerprint.identity,
        "versions": {**fingerprint.environment, "headstrip": __version__},
    }


@pytest.mark.parametrize(
    ("name", "weights", "written"),
    [
        ("tiny", None, "torchvision:tiny"),
        ("tiny", WeightsEntry("V1"), "torchvision:tiny.V1"),
        ("organisation/tiny.a", WeightsEntry("V1"), "torchvision:organisation/tiny.a"),
    ],
)
def test_the_name_has_the_tag_unless_it_is_a_hub_id(
    name: str, weights: WeightsEntry | None, written: str
) -> None:
    manifest = manifest_of(described(name, weights=weights))
    assert manifest["name"] == written
    assert manifest["weights"]["tag"] == (weights.tag if weights else None)


def test_parts_that_the_encoder_lacks_are_null() -> None:
    manifest = manifest_of(described(preprocessing=None))
    assert manifest["preprocessing"] is None
    assert manifest["weights"] == {"tag": None, "sha256": None, "file": None, "key": None}


def test_predictors_are_listed_without_their_values() -> None:
    encoder = described(predictors=Predictors(5, {"colour": 3}), head=nn.Linear(5, 2))
    manifest = manifest_of(encoder)
    assert manifest["predictors"] == [COLOUR]
    assert len(manifest["head"]) == 64


def trained() -> Encoder:
    predictors = Predictors(5, {"colour": 3})
    next(predictors.parameters()).data += 1
    return described(predictors=predictors)


def test_a_warning_says_that_values_of_trained_predictors_are_left_out() -> None:
    encoder = trained()
    with pytest.warns(UserWarning, match="were trained") as caught:
        manifest = encoder.manifest()
    assert str(caught[0].message) == (
        "The predictors of torchvision:tiny were trained, but a manifest does not contain their "
        "values. Save the encoder with encoder.save(folder), which keeps them."
    )
    assert manifest["predictors"] == [{**COLOUR, "trained": True}]


def test_the_warning_points_to_the_callers_file() -> None:
    encoder = trained()
    with pytest.warns(UserWarning, match="were trained") as caught:
        encoder.manifest()
    assert caught[0].filename == __file__


def test_a_predictor_that_is_not_a_linear_layer_is_refused() -> None:
    encoder = described(predictors=Predictors(5, {"colour": 3}))
    assert encoder.predictors is not None
    encoder.predictors[0] = nn.Sequential()
    with pytest.raises(ManifestError) as caught:
        encoder.manifest()
    assert str(caught.value) == (
        "The predictor 'colour' is a Sequential, and a manifest describes linear layers only. "
        "Build the encoder without predictors, and save your modules separately."
    )
