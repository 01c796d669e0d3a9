"""Embedding images that are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import pixels

from headstrip import PreprocessingError
from headstrip.encoder.encoder import Encoder


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_embeddings_come_in_the_order_of_the_images(encoder: Encoder, batch_size: int) -> None:
    images = [pixels(seed) for seed in range(5)]
    embeddings = encoder.embed(images, batch_size=batch_size)
    with torch.inference_mode():
        expected = torch.cat([encoder(encoder.preprocess(image)[None]) for image in images])
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, encoder.output_dim)
    assert np.allclose(embeddings, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert len(np.unique(embeddings.round(5), axis=0)) == 5


def test_images_are_read_only_when_their_batch_is_due(encoder: Encoder) -> None:
    log: list[str] = []

    def images() -> Iterator[np.ndarray]:
        for seed in range(4):
            log.append("image")
            yield pixels(seed)

    with encoder.register_forward_hook(lambda *_: log.append("batch")):
        encoder.embed(images(), batch_size=2)
    assert log == ["image", "image", "batch"] * 2


def test_no_images_give_no_rows(encoder: Encoder) -> None:
    assert encoder.embed([]).shape == (0, encoder.output_dim)


def test_embed_does_not_change_the_mode_or_the_statistics(encoder: Encoder) -> None:
    before = encoder.embed([pixels(0)])
    encoder.train()
    statistics = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    again = encoder.embed([pixels(0)])
    assert encoder.training
    encoder.eval()
    assert np.array_equal(before, again)
    assert all(torch.equal(b, statistics[name]) for name, b in encoder.named_buffers())


def test_an_encoder_of_another_dtype_gives_float32(encoder: Encoder) -> None:
    expected = encoder.embed([pixels(0)])
    try:
        wide = encoder.double().embed([pixels(0)])
    finally:
        encoder.float()
    assert wide.dtype == np.float32
    assert np.allclose(wide, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, None])
def test_a_batch_size_that_is_not_a_positive_integer_is_refused(
    encoder: Encoder, batch_size: Any
) -> None:
    with pytest.raises(ValueError, match="must be a positive integer"):
        encoder.embed([pixels(0)], batch_size=batch_size)


@pytest.mark.parametrize("images", ["photo.jpg", 7])
def test_one_image_instead_of_several_gives_a_clear_error(encoder: Encoder, images: Any) -> None:
    with pytest.raises(PreprocessingError, match="embed takes several images"):
        encoder.embed(images)


def test_one_array_is_refused_because_its_rows_are_not_images(encoder):
    with pytest.raises(PreprocessingError, match="embed takes several images"):
        encoder.embed(np.zeros((40, 50, 3), np.uint8))


def test_a_mapping_of_images_is_refused(encoder):
    with pytest.raises(PreprocessingError, match=r"^images is a dict, .* list\(images\.values"):
        encoder.embed({"cat.jpg": pixels(0)})
