"""``headstrip list``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.cli.terminal import in_terminal
from tests.distributions import catalog_of, install_distribution

from headstrip import BackboneSpec
from headstrip.registry.registry import get_registry


def names(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()]


def chosen(run: Run, *arguments: str) -> list[str]:
    result = run("list", "--source", "torchvision", *arguments)
    assert result.exit_code == 0
    return names(result.stdout)


def test_list_prints_only_one_aligned_line_per_backbone_to_a_pipe(run: Run) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == len(get_registry().specs())
    assert (
        len(
            {
                line.index("x224")
                for line in run("list", "torchvision:vit_[bl]*").stdout.splitlines()
            }
        )
        == 1
    )
    assert result.stderr == ""


def test_a_line_has_width_parameters_input_and_weights(run: Run) -> None:
    assert run("list", "torchvision:resnet18").stdout.split() == [
        "resnet18",
        "resnet",
        "512",
        "11.7M",
        "3x224x224",
        "IMAGENET1K_V1",
    ]


@pytest.mark.parametrize("pattern", ["vit*", "torchvision:vit*", "vit_?_??"])
def test_a_pattern_matches_bare_and_qualified_names(run: Run, pattern: str) -> None:
    assert chosen(run, pattern) == [
        "vit_b_16",
        "vit_b_32",
        "vit_h_14",
        "vit_l_16",
        "vit_l_32",
    ]


def test_options_narrow_the_list(run: Run) -> None:
    assert chosen(run, "--family", "squeezenet") == ["squeezenet1_0", "squeezenet1_1"]
    assert chosen(run, "--task", "video", "--dim", "1024") == ["s3d", "swin3d_b"]
    assert chosen(run, "vit*", "--input", "518") == ["vit_h_14"]
    assert chosen(run, "--input", "3x16x224x224", "--family", "s3d") == ["s3d"]
    assert chosen(run, "squeezenet*", "--max-params", "1.24m") == ["squeezenet1_1"]
    assert chosen(run, "squeezenet*", "--max-params", "1235496") == ["squeezenet1_1"]
    assert run("list", "--source", "nobody").exit_code == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--max-params", "many", "'many' is not a number. Pass one such as 30M"),
        ("--input", "big", "'big' is not a size. Pass one such as 224"),
        ("--dim", "wide", "'wide' is not a valid integer"),
        ("--task", "sound", "'sound' is not one of 'image', 'video'"),
        ("--input", "0", "'0' is not a size. Pass one such as 224"),
        ("--stride", "3", "No backbone has a feature map with the stride 3. Pass one of "),
        ("--dim", "0", "dim must be an integer of 1 or more, got 0."),
        ("--license", "", "license must be text such as 'apache-2.0', got ''."),
    ],
)
def test_a_value_that_cannot_be_read_is_a_usage_error(
    run: Run, option: str, value: str, message: str
) -> None:
    result = run("list", option, value)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet"], "No backbone matches 'resnet'. '*resnet*' matches "),
        (["nobody*"], "No backbone matches 'nobody*'. Run `headstrip list` to see all names."),
        (["--dim", "7"], "No backbone matches the option."),
        (["vit*", "--dim", "7"], "No backbone matches all options together."),
    ],
)
def test_an_empty_result_is_explained_on_stderr(
    run: Run, arguments: list[str], message: str
) -> None:
    result = run("list", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)


def test_json_has_every_field_and_every_row_of_the_catalog(run: Run) -> None:
    (row,) = json.loads(run("list", "vit_h_14", "--json").stdout)
    assert row == {
        "name": "vit_h_14",
        "source": "torchvision",
        "qualified_name": "torchvision:vit_h_14",
        "family": "vit",
        "plugin": "vit",
        "task": "image",
        "input_shape": [3, 518, 518],
        "dim": 1280,
        "params": 633470440,
        "law": "exact",
        "default_weights": "IMAGENET1K_SWAG_E2E_V1",
        "options": {},
        "sizes": "square",
        "channels": [1280] * 32,
        "strides": [14] * 32,
    }
    assert len(json.loads(run("list", "--json").stdout)) == len(get_registry().specs())


def test_json_of_an_empty_result_is_an_empty_list(run: Run) -> None:
    result = run("list", "nobody", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, [])


def install(site: Path, source: str, *names: str) -> None:
    specs = [
        BackboneSpec(name, source, "resnet", source, "image", (3, 8, 8), 4, 999) for name in names
    ]
    module = f"listed_{source}"
    files = {f"{module}/__init__.py": "", f"{module}/catalog.tsv": catalog_of(*specs)}
    install_distribution(site, f"listed-{source}", {source: module}, files)


def test_list_prints_the_shortest_name_that_build_encoder_accepts(run: Run, site: Path) -> None:
    install(site, "other", "resnet18", "net")
    lines = run("list", "--source", "other").stdout.splitlines()
    assert names("\n".join(lines)) == ["other:net", "other:resnet18"]
    assert lines[0].split() == ["other:net", "resnet", "4", "999", "3x8x8", "-"]


def test_a_narrow_terminal_shows_names_unbroken() -> None:
    assert "efficientnet_v2_s" in in_terminal("list", "efficientnet_v2*", columns=50)


def test_a_wide_terminal_shows_a_header_and_one_line_per_row() -> None:
    lines = in_terminal("list", "torchvision:vit*", columns=120).splitlines()
    assert any("name" in line and "default weights" in line for line in lines)
    assert sum("vit_" in line for line in lines) == 5


def test_license_selects_backbones_with_weights_under_that_licence(run: Run) -> None:
    result = run("list", "--license", "Apache-2.0", "--source", "efficientnet-lite", "--json")
    assert len(json.loads(result.stdout)) == 3
    stated = "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"
    names = {row["name"] for row in json.loads(run("list", "--license", stated, "--json").stdout)}
    assert {"vit_h_14", "regnet_y_128gf"} <= names
    assert "resnet18" not in names


def test_sizes_selects_backbones_that_accept_those_sizes(run: Run) -> None:
    rows = json.loads(run("list", "--sizes", "square", "--source", "torchvision", "--json").stdout)
    assert {row["name"] for row in rows} >= {"vit_b_16", "vit_b_32"}
    assert {row["sizes"] for row in rows} == {"square"}


def test_stride_and_max_channels_select_by_the_feature_maps(run: Run) -> None:
    def rows(*options: str) -> dict[str, dict[int, int]]:
        found = json.loads(run("list", "--source", "torchvision", *options, "--json").stdout)
        return {
            row["name"]: dict(zip(row["strides"], row["channels"], strict=True)) for row in found
        }

    found = rows("--stride", "8", "--max-channels", "128")
    assert found["resnet18"] == {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}
    assert all(maps[8] <= 128 for maps in found.values())
    assert not {"resnet50", "vit_b_16", "r3d_18"} & found.keys()
    assert rows("--stride", "16").keys() >= {"vit_b_16", "resnet50"}
    assert all(max(maps.values()) <= 512 for maps in rows("--max-channels", "512").values())


def test_law_selects_backbones_that_state_it(run: Run) -> None:
    rows = json.loads(run("list", "--law", "declared", "--source", "torchvision", "--json").stdout)
    assert [row["name"] for row in rows] == ["squeezenet1_0", "squeezenet1_1"]


def test_only_torchvision_keeps_a_bare_name_that_two_sources_share(run: Run) -> None:
    assert set(names(run("list", "resnet50").stdout)) == {"resnet50", "timm:resnet50"}
    # With its family disabled, the bare name still does not pass to another source.
    assert names(run("--no-plugin", "resnet", "list", "resnet50").stdout) == ["timm:resnet50"]
    assert names(run("list", "timm:resnet50d").stdout) == ["resnet50d"]


@pytest.mark.parametrize("arguments", [["timm:*"], ["--source", "timm"]])
def test_the_error_says_that_the_source_is_disabled(run: Run, arguments: list[str]) -> None:
    result = run("--no-plugin", "timm", "list", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        "The source 'timm' lists no backbones: 'timm' is blocked: disabled by "
    )


def test_the_error_says_that_the_plugin_has_no_catalog(run: Run, site: Path) -> None:
    install_distribution(site, "listed-bare", {"bare": "bare"}, {"bare/__init__.py": ""})
    message = run("list", "bare:*").stderr
    assert (
        "the plugin 'bare' ships no catalog.tsv; `headstrip catalog write bare` writes" in message
    )


def test_the_error_distinguishes_one_option_from_several(run: Run) -> None:
    assert "matches the option" in run("list", "--license", "nothing").stderr
    assert "all options together" in run("list", "vit*", "--license", "nothing").stderr
