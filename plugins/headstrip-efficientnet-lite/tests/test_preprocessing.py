"""The pixels equal those of timm's own evaluation."""

from __future__ import annotations

import timm
import torch
from timm.data import create_transform, resolve_data_config


def test_the_pixels_of_photographs_equal_timms_bit_for_bit(variant, encoder, photographs):
    config = timm.get_pretrained_cfg(f"tf_efficientnet_{variant}").to_dict()
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config))
    ours = encoder.preprocessing.transform()
    for photograph in photographs:
        assert torch.equal(ours(photograph), theirs(photograph))


def test_the_encoder_has_the_native_input_size(variant, encoder):
    size = {"lite0": 224, "lite1": 240, "lite2": 260}[variant]
    assert encoder.input_shape == (3, size, size)


def test_black_becomes_minus_one_and_white_becomes_one(encoder):
    size = encoder.preprocessing.crop
    black, white = torch.zeros(3, *size), torch.full((3, *size), 255)
    transform = encoder.preprocessing.transform()
    assert (transform(black.to(torch.uint8)) == -1).all()
    assert (transform(white.to(torch.uint8)) == 1).all()
