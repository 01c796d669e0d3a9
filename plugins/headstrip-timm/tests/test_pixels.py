"""The pixels equal those of timm's own evaluation for every config."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.sampling import mostly_slow
from timm.data import create_transform, resolve_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor

from headstrip import Preprocessing, PreprocessingError
from headstrip_timm.preprocessing import preprocessing_of

SIZES = {
    "landscape": (300, 200),
    "portrait": (203, 301),
    "tiny": (7, 5),
    "one pixel": (1, 1),
    "larger": (1100, 830),
    "one pixel high": (3, 1),
    "one pixel wide": (1, 2),
}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
STANDARD = resolve_data_config(pretrained_cfg=PretrainedCfg().to_dict())
# The oldest timm accepts no other filter for a centre crop that is not square.
BILINEAR = {**STANDARD, "interpolation": "bilinear"}


def resolved(name: str) -> dict[str, Any]:
    config = get_pretrained_cfg(name) or PretrainedCfg()
    return resolve_data_config(pretrained_cfg=config.to_dict())


def distinct_configs() -> dict[str, dict[str, Any]]:
    """Return each distinct config of timm's architectures and tags, by its first name."""
    names = {
        str(sorted(resolved(name).items())): name
        for name in reversed([*timm.list_models(), *timm.list_models(pretrained=True)])
    }
    return {name: resolved(name) for name in names.values()}


CONFIGS = distinct_configs()


def picture(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, MODES[channels])


PICTURES = {title: picture(*size) for title, size in SIZES.items()}


def differing(config: dict[str, Any], pictures: dict[str, Image.Image] = PICTURES) -> list[str]:
    """Return the titles of the pictures with other pixels than in timm."""
    preprocessing = preprocessing_of(config)
    ours, theirs = preprocessing.transform(), create_transform(**config, is_training=False)
    assert preprocessing.input_shape == tuple(config["input_size"])

    def differs(image: Image.Image) -> bool:
        pixels: Tensor = ours(image)
        return pixels.shape != preprocessing.input_shape or not torch.equal(pixels, theirs(image))

    return [title for title, image in pictures.items() if differs(image)]


@pytest.mark.parametrize("name", mostly_slow(CONFIGS))
def test_the_pixels_equal_timms_bit_for_bit(name: str) -> None:
    assert differing(CONFIGS[name]) == []


def test_the_configs_cover_every_kind_of_timm_config() -> None:
    configs = CONFIGS.values()
    assert len(configs) > 150
    assert {"center", "squash"} <= {config["crop_mode"] for config in configs}
    assert {"bicubic", "bilinear"} <= {config["interpolation"] for config in configs}
    assert any(config["crop_pct"] > 1 for config in configs)


@pytest.mark.parametrize("mode", ["center", "squash", "border", None])
@pytest.mark.parametrize("percent", [0.875, 1.0, 1.15, None])
@pytest.mark.parametrize("size", [(96, 96), (64, 96), (96, 65)], ids=str)
def test_every_crop_mode_gives_timms_pixels_at_every_size(
    mode: str | None, percent: float | None, size: tuple[int, int]
) -> None:
    config = {**BILINEAR, "input_size": (3, *size), "crop_pct": percent, "crop_mode": mode}
    assert differing(config) == []


@pytest.mark.parametrize("interpolation", ["nearest", "box", "hamming", "lanczos"])
def test_every_pillow_filter_gives_timms_pixels(interpolation: str) -> None:
    assert differing({**STANDARD, "interpolation": interpolation}) == []


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_give_timms_pixels(channels: int, mode: str) -> None:
    values = {"mean": (0.2, 0.4, 0.6, 0.8)[:channels], "std": (0.3, 0.2, 0.1, 0.4)[:channels]}
    asked = {"input_size": (channels, 48, 64), "crop_mode": mode, **values}
    config = resolve_data_config(asked, pretrained_cfg=BILINEAR)
    pictures = {title: picture(*size, channels) for title, size in SIZES.items()}
    assert differing(config, pictures) == []


@pytest.mark.parametrize("mode", ["center", "border"])
def test_a_single_mean_applies_to_all_channels(mode: str) -> None:
    assert differing({**STANDARD, "mean": (0.4,), "std": (0.2,), "crop_mode": mode}) == []


def test_a_config_read_from_json_is_accepted() -> None:
    listed = {key: list(v) if isinstance(v, tuple) else v for key, v in STANDARD.items()}
    assert preprocessing_of(listed) == preprocessing_of(STANDARD)


def test_a_square_centre_crop_resizes_the_shorter_side() -> None:
    assert preprocessing_of(STANDARD) == Preprocessing(
        crop=(224, 224),
        resize=256,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bicubic",
        crop_pct=0.875,
    )


@pytest.mark.parametrize("size", [(176, 176), (384, 384), (320, 256)], ids=str)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("own", [(224, 224), (240, 224)], ids=str)
def test_another_input_size_gives_timms_pixels(
    own: tuple[int, int], mode: str, size: tuple[int, int]
) -> None:
    shapes = [(300, 200), (203, 301)]
    for percent in (0.875, 0.9, 0.95, 0.965, 1.0, 1.15):
        config = {**BILINEAR, "input_size": (3, *own), "crop_pct": percent, "crop_mode": mode}
        asked = resolve_data_config({"input_size": (3, *size)}, pretrained_cfg=config)
        ours = preprocessing_of(config).for_input((3, *size))
        assert ours == preprocessing_of(asked)
        theirs = create_transform(**asked, is_training=False)
        for shape in shapes:
            assert torch.equal(ours.transform()(picture(*shape)), theirs(picture(*shape)))


def test_every_config_at_another_size_matches_timms() -> None:
    for config in CONFIGS.values():
        channels = config["input_size"][0]
        for side in (96, 160, 224, 288, 384, 448, 518):
            asked = {**config, "input_size": (channels, side, side)}
            found = preprocessing_of(config).for_input((channels, side, side))
            assert found == preprocessing_of(asked)


def test_a_narrow_image_that_timm_refuses_keeps_one_pixel() -> None:
    config = {**STANDARD, "crop_mode": "border", "crop_pct": 1.0, "mean": (0.0, 0.5, 1.0)}
    white = Image.new("RGB", (1000, 1), "white")
    with pytest.raises(ValueError, match="must be > 0"):
        create_transform(**config)(white)
    out = preprocessing_of({**config, "std": (1.0, 1.0, 1.0)}).transform()(white)
    assert (out[0] == 1).any(dim=1).nonzero().tolist() == [[111]]


@pytest.mark.parametrize("channels", [1, 4])
def test_a_mean_with_a_wrong_number_of_channels_is_refused_as_in_timm(
    channels: int,
) -> None:
    config = {**STANDARD, "input_size": (channels, 224, 224)}
    with pytest.raises(RuntimeError, match="match"):
        create_transform(**config)(picture(8, 8, channels))
    with pytest.raises(PreprocessingError, match=rf"the {channels} channels.*one for all"):
        preprocessing_of(config)


@pytest.mark.parametrize("mode", ["middle", 3, ["center"]], ids=str)
def test_an_unknown_crop_mode_is_refused(mode: Any) -> None:
    with pytest.raises(PreprocessingError, match=r"no crop mode .*Use center, squash or border"):
        preprocessing_of({**STANDARD, "crop_mode": mode})


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": 224},
        {"input_size": (224, 224)},
        {"input_size": (3, "a", 224)},
        {"input_size": None},
        {"mean": None},
        {"mean": 0.5},
        {"std": ("a", "b", "c")},
        {"mean": (float("nan"),) * 3},
        {"crop_pct": "all"},
        {"crop_pct": float("nan")},
    ],
    ids=str,
)
def test_an_invalid_config_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PreprocessingError, match=r"not a timm data config.*resolve_data_config"):
        preprocessing_of({**STANDARD, **change})


@pytest.mark.parametrize("missing", ["input_size", "mean", "std", "interpolation"])
def test_a_config_that_lacks_a_value_is_refused(missing: str) -> None:
    config = {key: value for key, value in STANDARD.items() if key != missing}
    with pytest.raises(PreprocessingError, match=f"not a timm data config.*'{missing}'"):
        preprocessing_of(config)


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (3, 0, 224)},
        {"crop_pct": -1.0},
        {"crop_pct": 1e9},
        {"std": (0, 1, 1)},
        {"interpolation": "random"},
        {"mean": (1.5, 0, 0), "crop_mode": "border"},
    ],
    ids=str,
)
def test_a_config_with_impossible_values_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PreprocessingError):
        preprocessing_of({**STANDARD, **change})
