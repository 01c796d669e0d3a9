"""Two encoders have the same identity exactly when their embeddings may be mixed."""

from __future__ import annotations

import copy
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import headstrip
from headstrip import Encoder, build_encoder

NAME = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(models.get_model(NAME, weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def built(file: Path) -> Encoder:
    return build_encoder(NAME, weights=file)


@pytest.fixture
def encoder(built: Encoder) -> Encoder:
    return copy.deepcopy(built)


def identity(encoder: Encoder) -> str:
    return encoder.fingerprint.identity


def test_two_builds_of_one_file_have_the_same_fingerprint(encoder: Encoder, file: Path) -> None:
    assert build_encoder(NAME, weights=file).fingerprint == encoder.fingerprint


def test_the_format_of_the_file_does_not_change_the_identity(
    encoder: Encoder, file: Path, tmp_path: Path
) -> None:
    save_file(torch.load(file, weights_only=True), tmp_path / "own.safetensors")
    again = build_encoder(NAME, weights=tmp_path / "own.safetensors").fingerprint
    assert again.identity == identity(encoder)
    assert again.weights_sha256 != encoder.fingerprint.weights_sha256


@pytest.mark.parametrize("mode", [True, False])
def test_modes_predictors_and_the_head_do_not_change_the_identity(
    encoder: Encoder, file: Path, mode: bool
) -> None:
    torch.manual_seed(0)
    other = build_encoder(NAME, weights=file, predictors={"colour": 3}).train(mode)
    assert other.head is not None
    other.head.bias.data += 1
    assert identity(other.freeze()) == identity(encoder)


def test_a_fingerprint_is_plain_json(encoder: Encoder, file: Path) -> None:
    written = encoder.fingerprint.to_json()
    assert json.loads(json.dumps(written)) == written
    assert written["name"] == f"torchvision:{NAME}"
    assert written["weights"] == "IMAGENET1K_V1"
    assert written["weights_sha256"] == encoder.weights_sha256
    assert written["dtype"] == "float32"
    assert written["environment"]["torch"] == torch.__version__
    assert len(written["identity"]) == 64


def last_bit(tensor: torch.Tensor) -> None:
    flat = tensor.data.flatten().contiguous()
    flat.view(torch.int32 if flat.dtype == torch.float32 else torch.int64)[-1] ^= 1
    tensor.data = flat.reshape(tensor.shape)


def change_parameter(encoder: Encoder) -> None:
    last_bit(list(encoder.backbone.parameters())[-1])


def change_buffer(encoder: Encoder) -> None:
    last_bit(encoder.backbone.get_buffer("conv5.1.running_var"))


def change_counter(encoder: Encoder) -> None:
    encoder.backbone.get_buffer("conv5.1.num_batches_tracked").add_(1)


def change_option(encoder: Encoder) -> None:
    encoder.options["transform_input"] = True


def change_crop(encoder: Encoder) -> None:
    assert encoder.preprocessing is not None
    encoder.preprocessing = replace(encoder.preprocessing, crop=(225, 225))


def change_mean(encoder: Encoder) -> None:
    assert encoder.preprocessing is not None
    encoder.preprocessing = replace(encoder.preprocessing, mean=(0.5, 0.5, 0.5))


def drop_preprocessing(encoder: Encoder) -> None:
    encoder.preprocessing = None


def change_dtype(encoder: Encoder) -> None:
    encoder.double()


def change_name(encoder: Encoder) -> None:
    encoder.spec = replace(encoder.spec, name="another")


def train(encoder: Encoder) -> None:
    encoder.train()(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize(
    "change",
    [
        change_parameter,
        change_buffer,
        change_counter,
        change_option,
        change_crop,
        change_mean,
        drop_preprocessing,
        change_dtype,
        change_name,
        train,
    ],
)
def test_any_change_that_affects_embeddings_changes_the_identity(
    encoder: Encoder, change: Callable[[Encoder], None]
) -> None:
    before = identity(encoder)
    change(encoder)
    assert identity(encoder) != before


def test_the_identity_is_computed_whenever_it_is_read(encoder: Encoder) -> None:
    before = identity(encoder)
    bias = encoder.backbone.get_parameter("conv5.1.bias").data
    bias += 1
    assert identity(encoder) != before
    bias -= 1
    assert identity(encoder) == before


def test_two_random_networks_have_different_identities() -> None:
    one, other = (build_encoder(NAME, weights=None) for _ in range(2))
    assert identity(one) != identity(other)
    assert one.fingerprint.weights is None
    assert one.fingerprint.weights_sha256 is None


def test_the_preprocessing_of_other_weights_changes_the_identity() -> None:
    torch.manual_seed(0)
    one = build_encoder("resnet50", weights=None, preprocessing="IMAGENET1K_V1")
    torch.manual_seed(0)
    other = build_encoder("resnet50", weights=None, preprocessing="IMAGENET1K_V2")
    assert identity(one) != identity(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_identity_works_with_any_floating_point_dtype(file: Path, dtype: torch.dtype) -> None:
    one, other = (build_encoder(NAME, weights=file, dtype=dtype) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert f"torch.{one.fingerprint.dtype}" == str(dtype)
    one.backbone.get_parameter("conv5.1.bias").data += 1
    assert identity(one) != identity(other)


def test_a_buffer_of_any_kind_changes_the_identity(encoder: Encoder) -> None:
    seen = {identity(encoder)}
    for value in (torch.zeros(0), torch.zeros(0, 3), torch.tensor(True), torch.tensor(1 + 2j)):
        encoder.backbone.register_buffer("extra", value, persistent=False)
        seen.add(identity(encoder))
    assert len(seen) == 5


def test_the_memory_layout_does_not_change_the_identity(encoder: Encoder) -> None:
    before = identity(encoder)
    assert identity(encoder.to(memory_format=torch.channels_last)) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"sizes": (1, 2)}, {"sizes": [1, 2]}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (
            {"norm": functools.partial(nn.BatchNorm2d, eps=1e-3)},
            {"norm": functools.partial(nn.BatchNorm2d, eps=1e-3)},
        ),
        ({"activation": nn.ReLU()}, {"activation": nn.ReLU()}),
    ],
    ids=["lists", "order", "partials", "modules"],
)
def test_equivalent_options_give_the_same_identity(
    encoder: Encoder, one: dict[str, Any], other: dict[str, Any]
) -> None:
    encoder.options = one
    before = identity(encoder)
    encoder.options = other
    assert identity(encoder) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"norm": nn.BatchNorm2d}, {"norm": nn.LayerNorm}),
        (
            {"norm": functools.partial(nn.BatchNorm2d, eps=1e-3)},
            {"norm": functools.partial(nn.BatchNorm2d, eps=1e-5)},
        ),
        ({"stages": {"a", "b"}}, {"stages": {"a", "c"}}),
        ({"size": 1}, {"size": "1"}),
    ],
    ids=["classes", "partials", "sets", "types"],
)
def test_different_options_give_different_identities(
    encoder: Encoder, one: dict[str, Any], other: dict[str, Any]
) -> None:
    encoder.options = one
    before = identity(encoder)
    encoder.options = other
    assert identity(encoder) != before


class Unnamed:
    """An object with a memory address in its repr."""


ODD_OPTIONS = {
    "stages": {"a", "b", "c"},
    "kinds": frozenset({"x", "y"}),
    "norm": nn.BatchNorm2d,
    "layer": functools.partial(nn.BatchNorm2d, eps=1e-3),
    "call": torch.relu,
    "object": Unnamed(),
}


def print_identities(path: str) -> None:
    encoder = build_encoder(NAME, weights=path)
    print(identity(encoder))
    encoder.options = ODD_OPTIONS
    print(identity(encoder))


@pytest.mark.slow
def test_the_identity_is_the_same_in_every_process(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_identities(str(file))
    here = capsys.readouterr().out.split()
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    monkeypatch.setenv("PYTHONPATH", str(Path(headstrip.__file__).parents[1]))
    command = f"from tests.encoder.test_fingerprint import *; print_identities({str(file)!r})"
    there = subprocess.run(
        [sys.executable, "-c", command],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert there.stdout.split() == here
    assert len(set(here)) == 2


def test_lambdas_with_different_behaviour_give_different_identities() -> None:
    def identity(groups: int) -> str:
        torch.manual_seed(0)
        options = {"norm_layer": lambda channels: nn.GroupNorm(groups, channels)}
        return build_encoder("resnet18", weights=None, options=options).fingerprint.identity

    assert identity(8) == identity(8)
    assert identity(8) != identity(4)
