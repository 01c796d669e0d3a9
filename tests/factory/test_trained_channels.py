"""Checkpoints that were trained with other channels load unchanged, with their key and labels."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from headstrip import (
    Encoder,
    Preprocessing,
    PreprocessingError,
    WeightsError,
    WeightsWarning,
    build_encoder,
)

NAME = "shufflenet_v2_x0_5"
LABELS = ("cat", "dog", "horse")


def steps(count: int) -> Preprocessing:
    return Preprocessing((224, 224), 256, mean=(0.4,) * count, std=(0.25,) * count)


def trained(channels: int, name: str = NAME, seed: int = 0) -> nn.Module:
    """Return a network of torchvision with another first convolution, as users change it."""
    torch.manual_seed(seed)
    network = models.get_model(name, weights=None, num_classes=len(LABELS))
    path = "conv1" if name.startswith("resnet") else "conv1.0"
    old = network.get_submodule(path)
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False
    )
    network.set_submodule(path, new)
    return network.eval()


def lightning(path: Path, **networks: nn.Module) -> Path:
    """Write a checkpoint as Lightning does, with one prefix for each network."""
    state = {
        f"{prefix}.{name}": tensor
        for prefix, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    more = {"epoch": 3, "global_step": 40, "optimizer_states": [], "loops": {}}
    torch.save({**more, "pytorch-lightning_version": "2.4.0", "state_dict": state}, path)
    return path


def assert_same(encoder: Encoder, network: nn.Module) -> None:
    """Check that an encoder has the tensors and the logits of a network, bit for bit."""
    own = network.state_dict()
    assert all(torch.equal(one, own[name]) for name, one in encoder.backbone.state_dict().items())
    x = torch.randn(2, *encoder.input_shape)
    with torch.no_grad():
        assert torch.equal(encoder.logits(x), network(x))


@pytest.mark.parametrize("name", [NAME, "resnet18"])
@pytest.mark.parametrize("channels", [1, 5])
def test_a_checkpoint_of_lightning_loads_unchanged_with_the_given_labels(
    channels: int, name: str, tmp_path: Path
) -> None:
    network = trained(channels, name)
    path = lightning(tmp_path / "run.ckpt", model=network)
    encoder = build_encoder(
        name, weights=path, in_chans=channels, preprocessing=steps(channels), labels=LABELS
    )
    assert encoder.input_shape == (channels, 224, 224)
    assert (encoder.weights_key, encoder.labels) == ("state_dict.model", LABELS)
    assert encoder.preprocessing == steps(channels)
    assert_same(encoder, network)


def test_named_channels_load_unchanged_too(tmp_path: Path) -> None:
    network = trained(4)
    path = lightning(tmp_path / "run.ckpt", net=network)
    encoder = build_encoder(NAME, weights=path, in_chans=("R", "G", "B", "N"), labels=LABELS)
    assert_same(encoder, network)


@pytest.mark.parametrize("key", ["teacher", "student"])
@pytest.mark.parametrize("channels", [1, 5])
def test_the_key_chooses_among_state_dicts_of_the_same_channels(
    channels: int, key: str, tmp_path: Path
) -> None:
    networks = {"teacher": trained(channels, seed=1), "student": trained(channels, seed=2)}
    path = lightning(tmp_path / "run.ckpt", **networks)
    arguments: dict[str, Any] = {
        "weights": path,
        "in_chans": channels,
        "preprocessing": steps(channels),
    }
    with pytest.raises(WeightsError, match="holds 2 state dicts that fit"):
        build_encoder(NAME, **arguments)
    encoder = build_encoder(NAME, weights_key=key, **arguments)
    assert encoder.weights_key == f"state_dict.{key}"
    assert_same(encoder, networks[key])


def test_state_dicts_for_rgb_and_for_grey_need_a_key(tmp_path: Path) -> None:
    networks = {"teacher": trained(1), "student": trained(3)}
    path = lightning(tmp_path / "run.ckpt", **networks)
    arguments: dict[str, Any] = {"weights": path, "in_chans": 1, "preprocessing": steps(1)}
    with pytest.raises(WeightsError, match=r"'state_dict.student' was trained with 3 channels"):
        build_encoder(NAME, **arguments)
    assert_same(build_encoder(NAME, weights_key="teacher", **arguments), networks["teacher"])
    expanded = build_encoder(NAME, weights_key="student", **arguments)
    assert expanded.backbone.conv1[0].weight.shape[1] == 3


def test_one_channel_needs_its_statistics(tmp_path: Path) -> None:
    path = lightning(tmp_path / "run.ckpt", model=trained(1))
    with pytest.raises(PreprocessingError, match=r"trained with images of one channel.*--mean"):
        build_encoder(NAME, weights=path, in_chans=1)


@pytest.mark.parametrize(("channels", "wanted"), [(1, None), (5, None), (5, 1), (1, 5), (4, 5)])
def test_the_error_for_a_wrong_number_of_channels_names_the_right_one(
    channels: int, wanted: int | None, tmp_path: Path
) -> None:
    path = lightning(tmp_path / "run.ckpt", model=trained(channels))
    with pytest.raises(
        WeightsError, match=rf"images of {channels} channels?.*in_chans={channels} "
    ):
        build_encoder(NAME, weights=path, in_chans=wanted, preprocessing=steps(wanted or 3))


@pytest.mark.parametrize("channels", [1, 5])
def test_a_manifest_builds_the_same_encoder(channels: int, tmp_path: Path) -> None:
    path = lightning(tmp_path / "run.ckpt", model=trained(channels))
    encoder = build_encoder(
        NAME, weights=path, in_chans=channels, preprocessing=steps(channels), labels=LABELS
    )
    again = build_encoder(json.loads(json.dumps(encoder.manifest())), weights=path)
    assert again.fingerprint == encoder.fingerprint
    assert (again.input_shape, again.inputs) == (encoder.input_shape, encoder.inputs)
    assert (again.labels, again.weights_key) == (LABELS, "state_dict.model")


@pytest.mark.parametrize("channels", [1, 5])
def test_freezing_trained_filters_gives_no_warning(channels: int, tmp_path: Path) -> None:
    path = lightning(tmp_path / "run.ckpt", model=trained(channels))
    encoder = build_encoder(NAME, weights=path, in_chans=channels, preprocessing=steps(channels))
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        encoder.freeze()


def test_another_image_size_keeps_the_filters_of_one_channel(tmp_path: Path) -> None:
    network = trained(1)
    path = lightning(tmp_path / "run.ckpt", model=network)
    own = steps(1).for_input((1, 96, 128))
    encoder = build_encoder(NAME, weights=path, in_chans=1, img_size=(96, 128), preprocessing=own)
    assert encoder.input_shape == (1, 96, 128)
    assert_same(encoder, network)
