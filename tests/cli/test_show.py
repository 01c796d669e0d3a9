"""``headstrip show``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.distributions import catalog_of, install_distribution, weights_of

from headstrip import BackboneSpec, Preprocessing, WeightsEntry
from headstrip.registry.registry import get_registry


def facts(output: str) -> list[tuple[str, str]]:
    """Read the lines of facts, as pairs."""
    lines = [line.strip().partition("  ") for line in output.splitlines() if line.startswith("  ")]
    return [(key, value.strip()) for key, _, value in lines]


def test_show_prints_the_facts_of_a_backbone_in_order(run: Run) -> None:
    assert facts(run("show", "vit_h_14").stdout)[:7] == [
        ("width", "1280"),
        ("parameters", "633,470,440"),
        ("law", "exact"),
        ("family", "vit"),
        ("owner", "vit (built-in)"),
        ("task", "image"),
        ("input", "3x518x518"),
    ]


def test_show_prints_the_channels_and_strides_of_the_feature_maps(run: Run) -> None:
    found = dict(facts(run("show", "resnet18").stdout))
    assert found["maps"] == (
        "64 at stride 2, 64 at stride 4, 128 at stride 8, 256 at stride 16, 512 at stride 32"
    )
    assert dict(facts(run("show", "vit_b_16").stdout))["maps"] == "12 of 768 channels at stride 16"
    assert "maps" not in dict(facts(run("show", "r3d_18").stdout))


def test_show_prints_the_facts_of_each_set_of_weights(run: Run) -> None:
    output = run("show", "vit_h_14").stdout
    assert "IMAGENET1K_SWAG_E2E_V1 (default)\n" in output
    assert "\nIMAGENET1K_SWAG_LINEAR_V1\n" in output
    shown = dict(facts(output.partition("(default)")[2].partition("\n\n")[0]))
    assert shown["input"] == "3x518x518"
    assert shown["preprocessing"].startswith(
        "resize the shorter side to 518 (bicubic), crop the centre to 518x518, divide by 255, "
        "subtract the mean (0.485, 0.456, 0.406)"
    )
    assert shown["classes"] == "1000 (imagenet-1k)"
    assert shown["options"] == "image_size=518"
    assert shown["ImageNet-1K acc@1"] == "88.552"
    assert shown["GFLOPs"] == "1016.72"
    assert shown["file size"] == "2416.64 MB"
    assert shown["licence"].endswith("SWAG/blob/main/LICENSE")
    assert shown["location"].startswith("https://download.pytorch.org/models/vit_h_14")


def test_a_tag_in_the_name_shows_only_that_set_of_weights(run: Run) -> None:
    output = run("show", "resnet50.IMAGENET1K_V1").stdout
    assert "\nIMAGENET1K_V1\n" in output
    assert "IMAGENET1K_V2" not in output
    result = run("show", "resnet50.NONE")
    assert result.exit_code == 2
    assert (
        "has no weights 'NONE'. Choose one of its tags: IMAGENET1K_V2, IMAGENET1K_V1."
        in result.stderr
    )


def test_the_preprocessing_of_clips_includes_their_frames(run: Run) -> None:
    shown = dict(facts(run("show", "r3d_18").stdout))
    assert shown["preprocessing"].startswith("take 16 frames, resize to 128x171 (bilinear), crop")
    assert shown["licence"] == "not stated"


def test_a_kept_aspect_ratio_and_a_border_are_described(run: Run, site: Path) -> None:
    inside = Preprocessing(
        crop=(8, 6), resize=(9, 7), mean=(0.5,), std=(0.5,), fit="contain", fill=(128,)
    )
    cover = replace(inside, interpolation="bicubic", fit="cover", fill=None)
    spec = BackboneSpec("net", "fitted", "resnet", "fitted", "image", (1, 8, 6), 4, 9, "inside")
    files = {
        "shown_fitted/__init__.py": "",
        "shown_fitted/catalog.tsv": catalog_of(spec),
        "shown_fitted/weights.tsv": weights_of(
            ("net", WeightsEntry("inside", preprocessing=inside)),
            ("net", WeightsEntry("cover", preprocessing=cover)),
        ),
    }
    install_distribution(site, "shown-fitted", {"fitted": "shown_fitted"}, files)
    shown = [value for key, value in facts(run("show", "fitted:net").stdout) if key[:4] == "prep"]
    assert [words.partition(", divide")[0] for words in shown] == [
        "resize to fit inside 9x7 (bilinear), crop the centre to 8x6 and fill up with (128)",
        "resize to cover 9x7 (bicubic), crop the centre to 8x6",
    ]


def test_json_has_the_specification_and_every_set_of_weights(run: Run) -> None:
    shown = json.loads(run("show", "vit_h_14", "--json").stdout)
    assert (shown["dim"], shown["origin"], shown["source"]) == (1280, "built-in", "torchvision")
    assert [entry["is_default"] for entry in shown["weights"]] == [True, False]
    first = shown["weights"][0]
    assert first["options"] == {"image_size": 518}
    assert first["preprocessing"]["crop"] == [518, 518]
    assert first["metrics"]["ImageNet-1K acc@1"] == 88.552
    assert first["locations"][0].startswith("https://")
    assert first["is_verified"] is True


def test_every_backbone_of_torchvision_can_be_shown(run: Run) -> None:
    names = [spec.name for spec in get_registry().specs() if spec.source == "torchvision"]
    assert {run("show", name).exit_code for name in names} == {0}


@pytest.fixture
def other(site: Path) -> None:
    """A source with a backbone that its plugin loads itself, and a backbone without weights."""
    own = WeightsEntry("own", num_classes=7, metrics=(("rank", 3),))
    crop = Preprocessing(crop=(8, 8), resize=None, mean=(0.5,), std=(0.5,))
    bare = WeightsEntry("bare", locations=("/a.pth", "/b.pth"), preprocessing=crop)
    specs = [
        BackboneSpec("net", "other", "resnet", "other", "image", (3, 8, 8), 4, 9, "own"),
        BackboneSpec(
            "plain", "other", "resnet", "other", "image", (3, 8, 8), 4, 9, options=(("depth", 3),)
        ),
    ]
    code = (
        "from headstrip import hookimpl\n"
        "print('noise')\n"
        "@hookimpl\n"
        "def weights(spec):\n"
        "    return ()\n"
    )
    files = {
        "shown_other/__init__.py": code,
        "shown_other/catalog.tsv": catalog_of(*specs),
        "shown_other/weights.tsv": weights_of(("net", own), ("net", bare)),
    }
    install_distribution(site, "shown-other", {"other": "shown_other"}, files)


@pytest.mark.usefixtures("other")
def test_weights_that_a_plugin_loads_itself_are_shown_as_slow_and_unverified(run: Run) -> None:
    output = run("show", "other:net").stdout
    own, bare = output.partition("own (default)")[2].split("\nbare\n")
    assert dict(facts(own)) == {
        "input": "not stated",
        "preprocessing": "not stated",
        "classes": "7",
        "rank": "3",
        "file size": "not stated",
        "licence": "not stated",
        "location": "slow, unverified (the plugin loads these weights itself)",
    }
    assert dict(facts(bare))["classes"] == "none"
    assert dict(facts(bare))["location"] == "/a.pth, /b.pth"
    assert dict(facts(bare))["preprocessing"] == (
        "crop the centre to 8x8, divide by 255, subtract the mean (0.5), "
        "divide by the standard deviation (0.5)"
    )
    shown = json.loads(run("show", "other:net", "--json").stdout)
    assert [entry["is_verified"] for entry in shown["weights"]] == [False, True]


@pytest.mark.usefixtures("other")
def test_show_reports_a_backbone_without_weights_and_hides_output_of_its_plugin(
    run: Run,
) -> None:
    result = run("show", "other:plain")
    assert dict(facts(result.stdout))["options"] == "depth=3"
    assert result.stdout.endswith("\nNo pretrained weights.\n")
    assert "noise" not in result.stdout
    assert run("show", "other:plain.own").stderr.endswith("It has none.\n")


FOUND = """
from tests.testing.test_files import Found

plugin = Found()
"""


def test_show_measures_a_backbone_that_the_plugin_did_not_measure(run: Run, site: Path) -> None:
    install_distribution(
        site, "headstrip-lab", {"lab": "lab_found:plugin"}, {"lab_found.py": FOUND}
    )
    result = run("show", "lab:tiny")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "width 6 parameters 221" in shown
    assert "V1 (default)" in shown
    (found,) = [json.loads(run("show", "lab:tiny", "--json").stdout)]
    assert (found["dim"], found["params"], found["default_weights"]) == (6, 221, "V1")
