"""Small encoders, and images in real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import VisionTransformer

from headstrip import BackboneSpec, EmbedOptions, Preprocessing, build_encoder, strip_head
from headstrip.encoder.encoder import Encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HERE = EmbedOptions(workers=0)
"""Decode in the process of the test, because starting workers takes longer than most tests."""
SMALL = Preprocessing(crop=(64, 64), resize=72, mean=MEAN, std=STD)


def pixels(seed: int, height: int = 80, width: int = 100) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def tiny_encoder() -> Encoder:
    """Make an encoder of one layer without build_encoder, which is faster."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    return _by_hand(network, "tests:tiny", 8, 5)


def tiny_vit() -> Encoder:
    """Make a transformer of three blocks, with a class token and a grid of 2 x 2 patches."""
    torch.manual_seed(0)
    network = VisionTransformer(16, 8, 3, 2, 12, 24)
    return _by_hand(strip_head(network, family="vit").backbone, "vit", 16, 12)


def _by_hand(backbone: torch.nn.Module, family: str, side: int, dim: int) -> Encoder:
    shape = (3, side, side)
    spec = BackboneSpec(
        name="tiny",
        source="tests",
        family=family,
        plugin="tests",
        task="image",
        input_shape=shape,
        dim=dim,
        params=965,
        law="headless",
    )
    return Encoder(
        backbone,
        None,
        law="headless",
        output_dim=dim,
        spec=spec,
        weights=None,
        weights_sha256=None,
        options={},
        input_shape=shape,
        preprocessing=Preprocessing(crop=(side, side), resize=side + 1, mean=MEAN, std=STD),
        predictors=None,
        labels=None,
    )


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """A ShuffleNet with random weights, with different embeddings for different images."""
    torch.manual_seed(0)
    return build_encoder("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a picture in the folder ``photos``."""

    def save(name: str, seed: int = 0, **options: object) -> Path:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(path, **options)
        return path

    return save
