"""Comparing the provenance of the rows of two runs."""

from __future__ import annotations

from typing import Any

import pytest

from headstrip import HeadstripError
from headstrip.embed.output.provenance import Provenance
from headstrip.embed.settings import EmbedSettings

ENCODER = {
    "name": "torchvision:resnet18.IMAGENET1K_V1",
    "identity": "a" * 64,
    "dtype": "float32",
    "weights": {"tag": "IMAGENET1K_V1", "sha256": "b" * 64, "file": None},
    "options": {},
    "preprocessing": None,
}
ENVIRONMENT = {"torch": "2.10.0", "processor": "x86_64"}


def provenance(environment: dict[str, str] = ENVIRONMENT, **changes: Any) -> Provenance:
    return Provenance({**ENCODER, **changes}, EmbedSettings(), environment)


@pytest.mark.parametrize(
    ("then", "now", "difference"),
    [
        ({**ENVIRONMENT, "openvino": "2026.1"}, ENVIRONMENT, "openvino was '2026.1' and is None"),
        (ENVIRONMENT, {**ENVIRONMENT, "openvino": "2026.1"}, "openvino was None and is '2026.1'"),
        (ENVIRONMENT, {**ENVIRONMENT, "torch": "2.11.0"}, "torch was '2.10.0' and is '2.11.0'"),
    ],
)
def test_every_difference_between_environments_is_listed(
    then: dict[str, str], now: dict[str, str], difference: str
) -> None:
    assert provenance(now).changes(provenance(then)) == [difference]


def test_equal_environments_have_no_difference() -> None:
    assert provenance().changes(provenance(dict(reversed(ENVIRONMENT.items())))) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "torchvision:resnet34"),
        ("options", {"x": 1}),
        ("preprocessing", {"crop": 1}),
        ("dtype", "bfloat16"),
    ],
)
def test_the_error_names_the_encoder_field_that_differs(field: str, value: Any) -> None:
    other = provenance(**{field: value, "identity": "c" * 64})
    with pytest.raises(HeadstripError, match=rf"settings: {field} is .* file and .* here\. Pass"):
        provenance().check_compatible(other, "out.parquet")


def test_a_removed_setting_of_an_earlier_version_is_ignored_when_it_is_null() -> None:
    written = provenance().to_json()
    written["settings"]["device_percent"] = None
    assert Provenance.from_json(written) == provenance()
    written["settings"]["device_percent"] = 50
    assert Provenance.from_json(written) is None
    assert Provenance.from_json({**written, "settings": []}) is None
