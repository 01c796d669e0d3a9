"""Pixels equal those of torchvision's ``weights.transforms()``, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.sampling import mostly_slow
from torch import Tensor
from torchvision import models
from torchvision.models import WeightsEnum
from torchvision.transforms import functional

from headstrip import Preprocessing, PreprocessingError
from headstrip.registry.registry import get_registry

IMAGE = [
    (name, member)
    for name in models.list_models(module=models)
    for member in models.get_model_weights(name)
]
VIDEO = [
    (name, member)
    for name in models.list_models(module=models.video)
    for member in models.get_model_weights(name)
]
SIZES = {
    "landscape": (300, 200),
    "portrait": (200, 300),
    "photograph": (640, 427),
    "smaller than the crop": (90, 60),
    "one pixel high": (9, 1),
    "one pixel wide": (1, 9),
    "one pixel": (1, 1),
}


def title(value: Any) -> str:
    return str(value) if isinstance(value, WeightsEnum) else str(value).replace(" ", "_")


def of_catalog(name: str, tag: str) -> Preprocessing:
    registry = get_registry()
    spec, _ = registry.resolve(f"torchvision:{name}")
    entry = next(entry for entry in registry.weights(spec) if entry.tag == tag)
    assert entry.preprocessing is not None
    assert entry.input_shape == entry.preprocessing.input_shape
    return entry.preprocessing


def one_a_preset(sets: list[tuple[str, WeightsEnum]]) -> list[tuple[str, WeightsEnum]]:
    presets = {str(member.transforms()): (name, member) for name, member in reversed(sets)}
    return list(presets.values())


def pixels(width: int, height: int, frames: int | None = None) -> np.ndarray:
    shape = (height, width, 3) if frames is None else (frames, height, width, 3)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).movedim(-1, -3).contiguous()


@pytest.mark.parametrize(("name", "member"), IMAGE, ids=title)
def test_the_catalog_states_the_preset_of_every_set_of_image_weights(
    name: str, member: WeightsEnum
) -> None:
    preset = member.transforms()
    (side,), (shorter,) = preset.crop_size, preset.resize_size
    assert of_catalog(name, member.name) == Preprocessing(
        crop=(side, side),
        resize=shorter,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        antialias=preset.antialias,
    )


@pytest.mark.parametrize(("name", "member"), VIDEO, ids=title)
def test_the_catalog_states_the_preset_of_every_set_of_video_weights(
    name: str, member: WeightsEnum
) -> None:
    preset, stated = member.transforms(), of_catalog(name, member.name)
    height, width = preset.crop_size
    size = preset.resize_size
    assert stated == Preprocessing(
        crop=(height, width),
        resize=size[0] if len(size) == 1 else tuple(size),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        antialias=False,
        frames=stated.frames,
    )
    assert stated.frames is not None
    assert stated.frames >= member.meta.get("min_temporal_size", 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "member"), mostly_slow(one_a_preset(IMAGE)), ids=title)
def test_an_image_has_the_pixels_of_torchvision(name: str, member: WeightsEnum, size: str) -> None:
    mine, theirs = of_catalog(name, member.name).transform(), member.transforms()
    array = pixels(*SIZES[size])
    picture, tensor = Image.fromarray(array), channels_first(array)
    assert torch.equal(mine(picture), theirs(picture))
    assert torch.equal(mine(tensor), theirs(tensor))


@pytest.mark.parametrize("size", ["landscape", "portrait", "smaller than the crop"])
@pytest.mark.parametrize(("name", "member"), one_a_preset(VIDEO), ids=title)
def test_a_clip_has_the_pixels_of_torchvision(name: str, member: WeightsEnum, size: str) -> None:
    mine, theirs = of_catalog(name, member.name).transform(), member.transforms()
    clip = channels_first(pixels(*SIZES[size], frames=3))
    assert torch.equal(mine(clip), theirs(clip))


def test_a_batch_has_the_pixels_of_its_images() -> None:
    transform = of_catalog("resnet18", "IMAGENET1K_V1").transform()
    batch = channels_first(pixels(40, 30, frames=3))
    assert torch.equal(transform(batch), torch.stack([transform(image) for image in batch]))


def test_a_batch_of_clips_has_the_pixels_of_torchvision() -> None:
    weights = models.video.R3D_18_Weights.DEFAULT
    clips = channels_first(pixels(40, 30, frames=4)).reshape(2, 2, 3, 30, 40)
    mine = of_catalog("r3d_18", weights.name).transform()
    assert torch.equal(mine(clips), weights.transforms()(clips))


SQUASH = Preprocessing(crop=(20, 24), resize=(20, 24), mean=(0.0,) * 3, std=(1.0,) * 3)


def test_a_pair_of_sizes_squashes_the_image() -> None:
    picture = Image.fromarray(pixels(60, 30))
    expected = functional.pil_to_tensor(functional.resize(picture, [20, 24])) / 255
    assert torch.equal(SQUASH.transform()(picture), expected)


def test_without_a_resize_the_crop_has_the_original_pixels() -> None:
    array = pixels(60, 30)
    expected = channels_first(array)[:, 5:25, 18:42] / 255
    assert torch.equal(replace(SQUASH, resize=None).transform()(Image.fromarray(array)), expected)


def test_without_a_resize_a_small_image_gets_a_black_border() -> None:
    array = pixels(20, 16)
    out = replace(SQUASH, resize=None).transform()(channels_first(array))
    assert torch.equal(out[:, 2:18, 2:22], channels_first(array) / 255)
    assert out[:, :2].abs().sum() + out[:, 18:].abs().sum() == 0


def test_pixel_values_are_divided_by_rescale() -> None:
    picture = Image.fromarray(pixels(24, 20))
    halves, whole = replace(SQUASH, rescale=510.0).transform(), SQUASH.transform()
    torch.testing.assert_close(halves(picture) * 2, whole(picture))


def test_a_filter_that_only_pil_has_resizes_images_and_refuses_tensors() -> None:
    array = pixels(60, 30)
    transform = replace(SQUASH, interpolation="lanczos").transform()
    resized = Image.fromarray(array).resize((24, 20), Image.Resampling.LANCZOS)
    assert torch.equal(transform(Image.fromarray(array)), functional.pil_to_tensor(resized) / 255)
    with pytest.raises(PreprocessingError, match=r"'lanczos'.*Pass a PIL image"):
        transform(channels_first(array))


def test_a_transform_prints_its_steps() -> None:
    printed = repr(of_catalog("r3d_18", "KINETICS400_V1").transform())
    for part in ("[128, 171], 'bilinear', antialias=False", "divisor=255.0", "ClipToVideo"):
        assert part in printed
