"""headstrip refuses each of 200 files that almost fit, and loads none of them partly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.weights.files import State, save_zip
from torchvision import models

from headstrip import WeightsError, build_encoder
from headstrip.factory.nearest import foreign_library
from headstrip.network.state_dicts import COUNTER, is_under

NAMES = ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "resnet18", "mnasnet0_5"]
EACH = 10
"""Files of each kind for each of the five architectures: 200 files in total."""


def light_state(name: str) -> State:
    """Return a state dict of one number per tensor, expanded, so that its file is small."""
    with torch.device("meta"):
        shapes = models.get_model(name, weights=None).state_dict()
    return {key: torch.zeros((), dtype=one.dtype).expand(one.shape) for key, one in shapes.items()}


HEADS = ("fc", "classifier")
STATES = {name: light_state(name) for name in NAMES}
PREFIXES = itertools.cycle(["", "module.", "model.backbone."])


def before_the_head(name: str) -> list[str]:
    names = [key for key in STATES[name] if not key.endswith(COUNTER) and not is_under(key, HEADS)]
    return names[:: max(1, len(names) // EACH)][:EACH]


def one_missing(name: str) -> Iterator[Any]:
    for left_out in before_the_head(name):
        yield {key: one for key, one in STATES[name].items() if key != left_out}


def one_of_another_shape(name: str) -> Iterator[Any]:
    for changed in before_the_head(name):
        shape = STATES[name][changed].shape
        yield {**STATES[name], changed: torch.zeros(()).expand(shape[0] + 1, *shape[1:])}


def another_architecture(name: str) -> Iterator[Any]:
    others = [STATES[other] for other in NAMES if other != name]
    yield from itertools.islice(itertools.cycle(others), EACH)


def two_candidates(name: str) -> Iterator[Any]:
    state = STATES[name]
    for at in range(EACH):
        other = {
            key: torch.ones((), dtype=one.dtype).expand(one.shape) for key, one in state.items()
        }
        parts = ((f"a{at}.", state), ("b.", other))
        yield {f"{prefix}{key}": one for prefix, part in parts for key, one in part.items()}


KINDS = [one_missing, one_of_another_shape, another_architecture, two_candidates]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("name", "count"),
    [(NAMES[0], 2), *(pytest.param(name, EACH, marks=pytest.mark.slow) for name in NAMES)],
)
def test_a_wrong_file_is_refused(name: str, count: int, kind: Any, tmp_path: Path) -> None:
    contents = list(itertools.islice(kind(name), count))
    assert len(contents) == count
    for content in contents:
        prefix = next(PREFIXES)
        path = save_zip({f"{prefix}{key}": one for key, one in content.items()}, tmp_path / "x")
        with pytest.raises(WeightsError, match=r"does not fit|(holds|has) [\d,]+ (state|bytes)"):
            build_encoder(name, weights=path)


def test_the_error_names_a_larger_network_that_fits_the_file(tmp_path: Path) -> None:
    path = save_zip({"model": light_state("resnet34")}, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"96 tensors are unknown .*Its shapes fit 'resnet34'"):
        build_encoder("resnet18", weights=path)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("block1_conv1/kernel:0", "Keras or TensorFlow"),
        ("params/Conv_0/kernel", "Keras or TensorFlow"),
        ("params/LayerNorm_0/scale", "JAX"),
        ("backbone.layers.3.ln1.weight", "mmpretrain"),
        ("backbone.stages.0.blocks.1.attn.w_msa.qkv.weight", "mmpretrain"),
        ("backbone.stages.2.5.pointwise_conv1.weight", "mmpretrain"),
        ("encoder.layer.0.attention.attention.query.weight", None),
        ("layer4.1.conv2.weight", None),
        ("blocks.0.attn.qkv.weight", None),
    ],
)
def test_tensor_names_of_other_libraries_are_recognized(name: str, library: str | None) -> None:
    assert foreign_library([name]) == library


def test_the_error_names_mmpretrain_as_the_origin_of_the_tensor_names(tmp_path: Path) -> None:
    names = [f"backbone.layers.{at}.ln1.weight" for at in range(12)]
    path = save_zip({"state_dict": {name: torch.zeros(8) for name in names}}, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"Its names are those of mmpretrain, such as 'backbone"):
        build_encoder("resnet18", weights=path)


def test_the_error_for_a_pickled_module_has_code_that_saves_its_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = models.squeezenet1_1()
    torch.save(trained, "whole.pt")
    with pytest.raises(WeightsError, match="headstrip executed nothing in it") as caught:
        build_encoder("squeezenet1_1", weights="./whole.pt")
    code = str(caught.value).partition("that made it: ")[2].rstrip(".")
    exec(code, {"torch": torch})
    encoder = build_encoder("squeezenet1_1", weights="./weights.pth")
    own = encoder.backbone.state_dict()
    assert all(
        torch.equal(own[key], one) for key, one in trained.state_dict().items() if key in own
    )
