"""``headstrip inspect``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Run
from tests.weights.files import Canary, State, save_zip
from tests.weights.layouts import dino, prefixed

from headstrip import WeightsError, build_encoder, inspect_checkpoint

NAME = "squeezenet1_1"


def saved(path: Path) -> Path:
    state = build_encoder(NAME, weights=None).backbone.state_dict()
    return save_zip(dino({**state}), path)


def test_inspect_prints_each_state_dict_and_the_call_that_loads_it(
    run: Run, tmp_path: Path
) -> None:
    path = saved(tmp_path / "run")
    output = run("inspect", str(path)).stdout
    for key in ("student", "teacher"):
        assert f"state dict '{key}.module.backbone'\n  prefix   module.backbone.\n" in output
        assert (
            f"build_encoder('squeezenet1_1', weights={str(path)!r}, weights_key='{key}')" in output
        )


def test_the_printed_call_builds_the_encoder(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path / "run")
    found = json.loads(run("inspect", str(path), "--json").stdout)
    for one in found["state_dicts"]:
        assert "squeezenet1_1" in one["architectures"]
        encoder = eval(one["line"], {"build_encoder": build_encoder})
        assert encoder.weights_key == one["key"]


def test_inspect_counts_the_classes_of_the_backbone_beside_other_heads(
    run: Run, tmp_path: Path
) -> None:
    encoder = build_encoder("resnet18", weights=None, predictors={"colour": 3})
    path = save_zip(encoder.state_dict(), tmp_path / "run")
    (one,) = json.loads(run("inspect", str(path), "--json").stdout)["state_dicts"]
    assert (one["key"], one["classes"], one["dtypes"]) == ("backbone", 1000, ["float32", "int64"])


def test_inspect_lists_all_architectures_with_the_same_shapes(run: Run, tmp_path: Path) -> None:
    state = build_encoder("resnet18", weights=None).backbone.state_dict()
    output = run("inspect", str(save_zip({**state}, tmp_path / "run"))).stdout
    assert "resnet18, timm:" in output
    assert "choose   write the name that the file was saved from" in output


def test_inspect_recognises_a_state_dict_of_another_library(run: Run, tmp_path: Path) -> None:
    names = [f"conv{at}/kernel:0" for at in range(8)]
    path = save_zip({name: torch.zeros(3, 3) for name in names}, tmp_path / "run")
    assert "its names are those of Keras or TensorFlow" in run("inspect", str(path)).stdout


def test_a_state_dict_that_fits_no_architecture_is_described(run: Run, tmp_path: Path) -> None:
    state = prefixed({f"layer.{at}.weight": torch.zeros(3, 3) for at in range(8)}, "net.")
    output = run("inspect", str(save_zip(state, tmp_path / "run"))).stdout
    assert "state dict 'net.layer'" in output
    assert "fits     no architecture of the catalog" in output


def test_a_file_with_code_in_it_is_refused_and_not_executed(run: Run, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    result = run("inspect", str(save_zip(Canary(canary), tmp_path / "run")))
    assert result.exit_code != 0
    assert not canary.exists()
    assert "in the environment that made it" in result.stderr


@pytest.mark.parametrize("name", ["run", "DEFAULT=x.ckpt", "IMAGENET1K_V1", "DEFAULT"])
def test_the_call_names_a_file_by_its_path_if_its_name_reads_as_a_tag(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(build_encoder(NAME, weights=None).backbone.state_dict(), name)
    (one,) = inspect_checkpoint(name).state_dicts
    assert one.line == f"build_encoder('{NAME}', weights='./{name}')"
    assert eval(one.line, {"build_encoder": build_encoder}).weights_key == ""


@pytest.mark.parametrize(
    "beside",
    [
        lambda state: [one + 1 for one in state.values()],
        lambda state: {"features.0.lora_A.weight": torch.zeros(4, 4)},
    ],
)
def test_the_call_has_the_key_if_the_file_contains_more_tensors(
    beside: Callable[[State], object], tmp_path: Path
) -> None:
    state = {**build_encoder(NAME, weights=None).backbone.state_dict()}
    path = save_zip({"model": state, "more": beside(state)}, tmp_path / "run")
    (one,) = [one for one in inspect_checkpoint(path).state_dicts if one.line]
    assert one.line is not None
    assert one.line.endswith("weights_key='model')")
    assert eval(one.line, {"build_encoder": build_encoder}).weights_key == "model"


@pytest.mark.parametrize("path", [None, b"run.pth", "", 3])
def test_inspect_checkpoint_refuses_a_value_that_is_not_a_path(path: object) -> None:
    with pytest.raises(WeightsError, match="is not the path of a weights file"):
        inspect_checkpoint(path)  # type: ignore[arg-type]
