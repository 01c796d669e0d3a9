"""The available backbones, and everything headstrip knows about one, as data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from tests.distributions import run_python

from headstrip import (
    OptionError,
    UnknownBackboneError,
    WeightsError,
    get_backbone,
    list_backbones,
    plugin_records,
)
from headstrip.cli import main


@pytest.mark.parametrize(
    ("filters", "options"),
    [
        ({}, []),
        ({"pattern": "vit*"}, ["vit*"]),
        ({"pattern": "torchvision:*", "dim": 768}, ["torchvision:*", "--dim", "768"]),
        (
            {"source": "torchvision", "max_params": 3e6},
            ["--source", "torchvision", "--max-params", "3M"],
        ),
        ({"family": "resnet", "input_size": (224, 224)}, ["--family", "resnet", "--input", "224"]),
        ({"task": "video"}, ["--task", "video"]),
        (
            {"law": "headless", "license": "Apache-2.0"},
            ["--law", "headless", "--license", "apache-2.0"],
        ),
    ],
)
def test_list_backbones_returns_the_same_as_the_list_command(
    filters: dict[str, Any], options: list[str]
) -> None:
    printed = json.loads(CliRunner().invoke(main, ["list", "--json", *options]).stdout)
    found = list_backbones(**filters)
    assert found
    assert [spec.qualified_name for spec in found] == [one["qualified_name"] for one in printed]


def test_a_filter_without_matches_gives_an_empty_list() -> None:
    assert list_backbones("nobody*") == []
    assert list_backbones(source="nobody") == []


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"pattern": 3}, "pattern must be text such as 'vit*', got 3."),
        ({"pattern": ""}, "pattern must be text such as 'vit*', got ''."),
        ({"source": 3}, "source must be text such as 'torchvision', got 3."),
        ({"family": ["vit"]}, "family must be text such as 'resnet', got ['vit']."),
        ({"license": ""}, "license must be text such as 'apache-2.0', got ''."),
        ({"license": 3}, "license must be text such as 'apache-2.0', got 3."),
        ({"license": []}, "license must be text such as 'apache-2.0', got []."),
        ({"task": "images"}, "task must be one of 'image', 'video', got 'images'."),
        ({"task": ["image"]}, "task must be one of 'image', 'video', got ['image']."),
        (
            {"law": "exakt"},
            "law must be one of 'exact', 'rounding', 'declared', 'headless', got 'exakt'.",
        ),
        (
            {"sizes": "foo"},
            "sizes must be one of 'any', 'multiple', 'square', 'fixed', got 'foo'.",
        ),
        ({"dim": "768"}, "dim must be an integer of 1 or more, got '768'."),
        ({"dim": 0}, "dim must be an integer of 1 or more, got 0."),
        ({"dim": 768.0}, "dim must be an integer of 1 or more, got 768.0."),
        ({"stride": True}, "stride must be an integer of 1 or more, got True."),
        ({"stride": -8}, "stride must be an integer of 1 or more, got -8."),
        ({"stride": [8]}, "stride must be an integer of 1 or more, got [8]."),
        ({"max_channels": "a"}, "max_channels must be an integer of 1 or more, got 'a'."),
        ({"max_channels": 0}, "max_channels must be an integer of 1 or more, got 0."),
        (
            {"max_params": "90M"},
            "max_params must be a number above 0, such as 90e6, got '90M'.",
        ),
        ({"max_params": 0}, "max_params must be a number above 0, such as 90e6, got 0."),
        (
            {"max_params": float("nan")},
            "max_params must be a number above 0, such as 90e6, got nan.",
        ),
    ],
)
def test_an_invalid_filter_is_refused(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        list_backbones(**filters)
    assert str(raised.value) == message


@pytest.mark.parametrize("size", [(), 0, True, "224", (224, "224"), (224.0,), (0, 0), {224}])
def test_an_invalid_input_size_is_refused(size: Any) -> None:
    with pytest.raises(OptionError, match=r"input_size must be an integer .* \(224, 160\), got "):
        list_backbones(input_size=size)


def test_one_number_means_a_square_input() -> None:
    assert list_backbones(input_size=518) == list_backbones(input_size=(518, 518)) != []


def test_the_error_for_an_unknown_stride_lists_the_strides_of_backbones() -> None:
    with pytest.raises(OptionError, match=r"with the stride 3\. Pass one of .*\b8, .*\b32\b"):
        list_backbones(stride=3)
    # Another filter does not change which strides are valid.
    assert list_backbones("vit_h_14", stride=8) == []


def test_the_weights_of_a_backbone_begin_with_the_default() -> None:
    found = get_backbone("resnet50")
    assert (found.spec.dim, found.origin) == (2048, "built-in")
    assert [entry.tag for entry in found.weights] == ["IMAGENET1K_V2", "IMAGENET1K_V1"]
    other = get_backbone("resnet50.IMAGENET1K_V1")
    assert [entry.tag for entry in other.weights] == ["IMAGENET1K_V1"]
    assert other.default_tag == "IMAGENET1K_V2"


def test_an_unknown_name_or_tag_is_refused() -> None:
    with pytest.raises(UnknownBackboneError, match="resnet51"):
        get_backbone("resnet51")
    with pytest.raises(
        WeightsError, match=r"has no weights 'V9'. Choose one of its tags: IMAGENET1K_V2"
    ):
        get_backbone("resnet50.V9")


def test_plugin_records_are_available_without_loading_plugins() -> None:
    records = {record.name: record for record in plugin_records()}
    assert records["resnet"].origin == "built-in"
    assert all(record.status != "failed" for record in records.values())


def test_listing_backbones_and_plugins_does_not_import_torch() -> None:
    code = (
        "import sys, headstrip\n"
        "assert headstrip.list_backbones('resnet*', dim=512)\n"
        "assert headstrip.get_backbone('resnet18').weights\n"
        "assert headstrip.plugin_records()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
