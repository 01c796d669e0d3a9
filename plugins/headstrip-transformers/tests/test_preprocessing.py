"""The pixels equal those of transformers' own image processors for PIL images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from headstrip import PreprocessingError
from headstrip_transformers.preprocessing import PROCESSORS, preprocessing_of

PIL_BACKED = ["Bit", "CLIP", "ConvNext", "DeiT", "Siglip", "ViT"]

SHORTER, SQUARE = {"shortest_edge": 256}, {"height": 40, "width": 56}
CROP = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}

CONFIGS: dict[str, dict[str, Any]] = {
    # Copied from published repositories.
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "do_center_crop": True,
        "do_resize": True,
        "crop_size": {"height": 224, "width": 224},
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": [0.485, 0.456, 0.406],
        "resample": 3,
        "size": SHORTER,
        "image_std": [0.229, 0.224, 0.225],
        "rescale_factor": 0.00392156862745098,
    },
    "clip of 2021": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "crop_size": 224,
        "size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "vit of 2021": {
        "feature_extractor_type": "ViTFeatureExtractor",
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": 224,
    },
    "siglip": {
        "image_processor_type": "SiglipImageProcessor",
        "do_rescale": True,
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 384, "width": 384},
    },
    "convnext at 224": {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "crop_pct": 0.875,
        "resample": 3,
        "do_resize": True,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": 224,
    },
    "convnext at 384": {
        "image_processor_type": "ConvNextImageProcessor",
        "crop_pct": None,
        "resample": 3,
        "size": {"shortest_edge": 384},
    },
    # Configurations that use every switch.
    "nothing stated": {"image_processor_type": "CLIPImageProcessorFast"},
    "no resize": {"image_processor_type": "BitImageProcessor", "do_resize": False, **CROP},
    "no rescale": {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": False,
        "image_mean": [120] * 3,
        "image_std": [60] * 3,
    },
    "no normalisation": {"image_processor_type": "ViTImageProcessor", "do_normalize": False},
    "another rescale": {"image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5},
    "one number for all channels": {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": 0.5,
        "image_std": 0.25,
    },
    "no square": {"image_processor_type": "ViTImageProcessor", "size": SQUARE},
    "a crop larger than the resize": {
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 40, "width": 32},
        "crop_size": {"height": 60, "width": 48},
    },
    "stretch and crop": {
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 60, "width": 48},
        "crop_size": {"height": 40, "width": 32},
    },
    **{
        f"filter {number}": {"image_processor_type": "ViTImageProcessor", "resample": number}
        for number in range(6)
    },
}


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def processor_of(kind: str) -> Any:
    """Return an image processor class; in older releases the PIL class had the plain name."""
    names = (f"{kind}ImageProcessorPil", f"{kind}ImageProcessor", f"{kind}ImageProcessorFast")
    return next(found for name in names if (found := getattr(transformers, name, None)))


def theirs(config: dict[str, Any], image: Image.Image) -> Tensor:
    """Return the pixels that transformers' own PIL image processor gives for an image."""
    name = config.get("image_processor_type") or config["feature_extractor_type"]
    kind = next(kind for kind in PIL_BACKED if name.startswith(kind))
    stated = {
        key: value
        for key, value in config.items()
        if value is not None and not key.endswith("_type")
    }
    processor = processor_of(kind)(**stated)
    return processor(image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("title", CONFIGS)
def test_the_pixels_equal_transformers_own_bit_for_bit(title: str) -> None:
    config = CONFIGS[title]
    preprocessing = preprocessing_of(config, "hf:lab/net")
    for image in (picture(600, 400), picture(401, 533)):
        pixels = preprocessing.transform()(image)
        assert tuple(pixels.shape) == preprocessing.input_shape
        assert torch.equal(pixels, theirs(config, image).float())


@pytest.mark.parametrize("width", range(300, 304))
@pytest.mark.parametrize("height", range(400, 404))
def test_a_centre_crop_is_shifted_by_at_most_one_pixel(width: int, height: int) -> None:
    # transformers rounds half a pixel down, and torchvision rounds it to the even number.
    config = {**CONFIGS["no resize"], "do_rescale": False, "do_normalize": False}
    image = picture(width, height)
    pixels, expected = (
        preprocessing_of(config, "hf:lab/net").transform()(image),
        theirs(config, image),
    )
    down, right = ((side - 224) % 4 == 3 for side in (height, width))
    whole = np.asarray(image).transpose(2, 0, 1)
    top, left = (height - 224) // 2, (width - 224) // 2
    assert np.array_equal(expected, whole[:, top : top + 224, left : left + 224])
    top, left = top + down, left + right
    assert np.array_equal(pixels, whole[:, top : top + 224, left : left + 224])


@pytest.mark.parametrize("size", [(200, 180), (224, 100), (100, 300)])
def test_an_image_smaller_than_the_crop_gets_the_same_black_border(size: tuple[int, int]) -> None:
    config = CONFIGS["no resize"]
    pixels = preprocessing_of(config, "hf:lab/net").transform()(picture(*size))
    assert torch.equal(pixels, theirs(config, picture(*size)).float())


def test_an_odd_pixel_of_the_border_is_on_the_other_side() -> None:
    # transformers puts it at the left and the top, and torchvision at the right and the bottom.
    config = {**CONFIGS["no resize"], "do_rescale": False, "do_normalize": False}
    image = picture(201, 199)
    pixels = preprocessing_of(config, "hf:lab/net").transform()(image)
    expected = theirs(config, image).float()
    assert torch.equal(pixels[:, 12:211, 11:212], expected[:, 13:212, 12:213])
    assert np.array_equal(expected[:, 13:212, 12:213], np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_defaults_match_those_of_transformers(kind: str) -> None:
    processor = processor_of(kind)()
    stated = preprocessing_of({"image_processor_type": f"{kind}ImageProcessor"}, "hf:lab/net")
    full = preprocessing_of(processor.to_dict(), "hf:lab/net")
    assert stated == full


def test_dinov3_matches_transformers_within_one_pixel_value() -> None:
    # Its processor rescales first and has no PIL version, so the pixels differ by rounding.
    processor = processor_of("DINOv3ViT")()
    image = Image.fromarray(
        np.asarray(picture(60, 40).resize((600, 400), Image.Resampling.BICUBIC))
    )
    preprocessing = preprocessing_of(processor.to_dict(), "hf:lab/net")
    expected = processor(image, return_tensors="pt")
    difference = preprocessing.transform()(image) - expected["pixel_values"][0]
    levels = difference.abs() * torch.tensor(preprocessing.std)[:, None, None] * 255
    assert 0 < levels.max() < 1.01


VIT = {"image_processor_type": "ViTImageProcessor"}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "has no type"),
        ({"image_processor_type": "SamImageProcessor"}, "is 'SamImageProcessor'"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "is 'Siglip2ImageProcessor'"),
        ({**VIT, "auto_map": {"AutoImageProcessor": "own.Own"}}, "is code in the repository"),
        ({**VIT, "do_pad": True}, r"pads images to a common size \(do_pad\)"),
        ({**VIT, "do_resize": False}, "does not resize and does not crop"),
        ({**VIT, "size": {"shortest_edge": 224}}, r"\(shortest_edge\) and does not crop"),
        ({**VIT, "size": {"longest_edge": 224}}, "states size as longest_edge instead"),
        (
            {**VIT, "size": {"shortest_edge": 224, "longest_edge": 512}},
            "states size as longest_edge, shortest_edge instead",
        ),
        ({**VIT, "resample": 9}, "filter 9"),
        ({**VIT, "size": "large"}, "is not valid"),
        ({**VIT, "image_mean": ["a"]}, "is not valid"),
        ({**VIT, "rescale_factor": 0}, "is not valid"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": SQUARE},
            "not one number, the shorter side",
        ),
    ],
)
def test_the_error_names_an_unsupported_step(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PreprocessingError, match=rf"hf:lab/net .*{sentence}.*preprocessing="):
        preprocessing_of(config, "hf:lab/net")
