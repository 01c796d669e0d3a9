"""Towers accept images of other channels and sizes as transformers allows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hf_checkpoints import files_of, folder_of, network_of, processor
from PIL import Image
from tests.sampling import mostly_slow

from headstrip import PreprocessingError, build_encoder
from headstrip_transformers.towers import TOWERS

KINDS = sorted(TOWERS)


@pytest.fixture
def name(kind, tmp_path):
    """The name of a folder with the smallest network of a model type."""
    return f"hf:{folder_of(tmp_path / kind, files_of(network_of(kind), processor(kind)))}"


@torch.no_grad()
@pytest.mark.parametrize("kind", mostly_slow(KINDS))
def test_grey_and_named_channels_give_the_embeddings_of_rgb(name):
    colour, grey = build_encoder(name), build_encoder(name, in_chans=1)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 80), dtype=np.uint8))
    x = colour.preprocess(picture.convert("RGB"))[None]
    assert torch.equal(grey(grey.preprocess(picture)[None]), colour(x))
    four = build_encoder(name, in_chans=("N", "B", "G", "R"), new_channels="zero")
    found = four(torch.cat([torch.randn_like(x[:, :1]), x.flip(1)], dim=1))
    torch.testing.assert_close(found, colour(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 128, (64, 96)], ids=str)
@pytest.mark.parametrize(
    "kind", mostly_slow(kind for kind in KINDS if kind != "aimv2_vision_model")
)
def test_a_tower_and_its_manifest_take_another_image_size(name, size):
    sides = (size, size) if isinstance(size, int) else size
    plain, encoder = build_encoder(name), build_encoder(name, img_size=size)
    x = encoder.preprocess(np.zeros((150, 160, 3), np.uint8))
    assert tuple(x.shape) == encoder.input_shape == (3, *sides)
    embedding = encoder(x[None])
    assert embedding.isfinite().all()
    assert encoder.output_dim == plain.output_dim
    again = build_encoder(json.loads(json.dumps(encoder.manifest())))
    assert again.fingerprint == encoder.fingerprint


@pytest.mark.parametrize("kind", ["aimv2_vision_model"])
def test_the_error_for_a_tower_with_a_fixed_size_names_that_size(name):
    with pytest.raises(PreprocessingError, match="Choose another img_size, such as 32 x 32"):
        build_encoder(name, img_size=64)
