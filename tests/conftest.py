"""Encoders that are small, and images that are real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headstrip import BackboneSpec, Preprocessing, build_encoder
from headstrip.encoder.encoder import Encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = Preprocessing(crop=(64, 64), resize=72, mean=MEAN, std=STD)


def pixels(seed: int, height: int = 80, width: int = 100) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def tiny_encoder() -> Encoder:
    """Make an encoder of one layer, by hand: what takes time is the rest."""
    shape = (3, 8, 8)
    spec = BackboneSpec(
        name="tiny",
        source="tests",
        family="tests:tiny",
        plugin="tests",
        task="image",
        input_shape=shape,
        dim=5,
        params=965,
        law="headless",
    )
    torch.manual_seed(0)
    return Encoder(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)),
        None,
        law="headless",
        output_dim=5,
        spec=spec,
        weights=None,
        weights_sha256=None,
        options={},
        input_shape=shape,
        preprocessing=Preprocessing(crop=(8, 8), resize=9, mean=MEAN, std=STD),
        predictors=None,
        labels=None,
    )


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """A ShuffleNet with random weights whose embeddings of two images differ."""
    torch.manual_seed(0)
    return build_encoder("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save a picture in a folder of its own."""

    def save(name: str, seed: int = 0, **options: object) -> Path:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(path, **options)
        return path

    return save
