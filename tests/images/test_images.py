"""The types that an image or a clip may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headstrip import ImageError, Preprocessing, PreprocessingError
from headstrip.encoder.encoder import Encoder
from headstrip.images.inputs import to_frames, to_picture

RGB = Preprocessing(crop=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
GREY = Preprocessing(crop=(8, 8), resize=8, mean=(0.5,), std=(0.5,))
CLIP = replace(RGB, frames=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)


def array_of(picture: Any) -> np.ndarray:
    assert isinstance(picture, Image.Image)
    return np.asarray(picture)


def refused(image: Any, preprocessing: Preprocessing = RGB) -> str:
    with pytest.raises(PreprocessingError) as caught:
        to_picture(image, preprocessing)
    return str(caught.value)


def test_an_rgb_image_is_used_unchanged() -> None:
    image = Image.fromarray(PIXELS)
    assert to_picture(image, RGB) is image


def test_an_array_and_an_image_give_the_same_input(encoder: Encoder) -> None:
    image = Image.fromarray(PIXELS)
    assert torch.equal(encoder.preprocess(PIXELS), encoder.preprocess(image))
    assert torch.equal(encoder.preprocess(PIXELS[:, ::-1]), encoder.preprocess(image.transpose(0)))


def test_a_path_is_read(save: Callable[..., Path], encoder: Encoder) -> None:
    path = save("photo.png")
    expected = encoder.preprocess(Image.open(path))
    assert torch.equal(encoder.preprocess(path), expected)
    assert torch.equal(encoder.preprocess(str(path)), expected)


def test_a_tensor_is_used_unchanged() -> None:
    tensor = torch.zeros(3, 9, 11, dtype=torch.uint8)
    assert to_picture(tensor, RGB) is tensor
    assert to_picture(tensor[:1], GREY).shape == (1, 9, 11)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb_as_pillow_converts_them(mode: str) -> None:
    source = Image.fromarray(PIXELS)
    image = source.convert("RGBA").convert("RGBa") if mode == "RGBa" else source.convert(mode)
    assert np.array_equal(array_of(to_picture(image, RGB)), array_of(image.convert("RGB")))


def test_a_palette_with_transparency_gives_no_warning(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    expected, keep = image.convert("RGB"), replace(RGB, background="keep")
    assert np.array_equal(array_of(to_picture(tmp_path / "a.png", keep)), array_of(expected))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_grey_is_scaled_and_not_clipped(mode: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
    image = Image.frombytes(mode, (4, 1), values.tobytes())
    assert array_of(to_picture(image, RGB))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_16_bit_file_is_scaled(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    grey = array_of(to_picture(tmp_path / "deep.png", RGB))[:, :, 0]
    assert np.array_equal(grey, np.round(ramp / 257))


def test_grey_arrays_are_accepted_for_one_and_three_channels() -> None:
    assert array_of(to_picture(PIXELS[:, :, 0], RGB)).shape == (9, 11, 3)
    assert array_of(to_picture(PIXELS[:, :, 0], GREY)).shape == (9, 11)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_one_channel_accepts_grey_pixels_in_a_colour_mode(mode: str) -> None:
    grey = Image.fromarray(PIXELS[:, :, 0])
    assert np.array_equal(array_of(to_picture(grey.convert(mode), GREY)), PIXELS[:, :, 0])


def test_one_channel_refuses_colours_with_a_remedy() -> None:
    message = refused(PIXELS, GREY)
    assert message.startswith("The image has colours, and the encoder takes one channel of grey.")
    assert "image.convert('L'), or build the encoder without in_chans=1" in message


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("F", 0, "mode 'F', whose range is not known"),
        ("I", -1, "mode 'I', which are not all within 0 and 65535"),
        ("I", 1 << 20, "mode 'I', which are not all within 0 and 65535"),
    ],
)
def test_pixels_with_an_unknown_range_are_refused(mode: str, value: int, message: str) -> None:
    assert message in refused(Image.new(mode, (4, 4), value))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (7, "An image cannot be an int."),
        (None, "An image cannot be a NoneType."),
        ([PIXELS], "An image cannot be a list."),
        (PIXELS.astype(np.float64), "an ndarray of float64 and shape (9, 11, 3)"),
        (PIXELS[None], "an ndarray of uint8 and shape (1, 9, 11, 3)"),
        (PIXELS[:, :, :2], "The image has 2 channels, and the encoder takes 3."),
        (PIXELS[:0], "an ndarray of uint8 and shape (0, 11, 3)"),
        (torch.zeros(3, 9, 11), "a Tensor of float32 and shape (3, 9, 11)"),
        (torch.zeros(9, 11, 3, dtype=torch.uint8), "A tensor must be an image of uint8 and shape"),
        (torch.zeros(3, 0, 9, dtype=torch.uint8), "it is 9 wide and 0 high"),
    ],
)
def test_the_error_for_other_inputs_names_type_dtype_and_shape(image: Any, message: str) -> None:
    assert message in refused(image)


def test_a_number_of_channels_that_no_image_has_is_refused() -> None:
    assert "the encoder takes 2. Choose as many" in refused(
        PIXELS, replace(RGB, mean=(0.5,) * 2, std=(0.5,) * 2)
    )


def test_an_image_that_a_resize_would_make_huge_is_refused() -> None:
    strip = Image.new("L", (1, 60_000))
    assert "with its shorter side at 256" in refused(strip, replace(RGB, resize=256))
    assert array_of(to_picture(strip, replace(RGB, resize=(8, 8)))).shape == (60_000, 1, 3)


def test_without_pillows_pixel_limit_no_narrow_image_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    strip = Image.new("RGB", (1, 60_000))
    assert to_picture(strip, replace(RGB, resize=256)) is strip


def test_a_lazy_image_of_a_damaged_file_raises_an_image_error(save: Callable[..., Path]) -> None:
    path = save("torn.jpg")
    path.write_bytes(path.read_bytes()[:-400])
    with Image.open(path) as lazy, pytest.raises(ImageError, match="truncated"):
        to_picture(lazy, RGB)


def test_a_clip_becomes_frames_with_channels_first() -> None:
    clip = np.stack([PIXELS] * 4)
    clip.flags.writeable = False
    for given in (clip, torch.from_numpy(clip.copy()), clip[:, ::-1, ::-1].copy()[:, ::-1, ::-1]):
        frames = to_frames(given, CLIP)
        assert frames.dtype == torch.uint8
        assert torch.equal(frames[2], torch.from_numpy(PIXELS.copy()).permute(2, 0, 1))


@pytest.mark.parametrize(
    "clip",
    [
        PIXELS,
        np.zeros((4, 9, 11, 3), np.float32),
        np.zeros((4, 3, 9, 11), np.uint8),
        torch.zeros(4, 9, 0, 3, dtype=torch.uint8),
        "clip.mp4",
    ],
)
def test_anything_but_a_clip_is_refused(clip: Any) -> None:
    with pytest.raises(PreprocessingError, match=r"of shape \(4, height, width, 3\)"):
        to_frames(clip, CLIP)


def test_the_error_for_another_clip_length_says_how_to_change_it() -> None:
    with pytest.raises(PreprocessingError, match="has 6 frames, but 4 are needed") as caught:
        to_frames(np.zeros((6, 9, 11, 3), np.uint8), CLIP)
    assert "dataclasses.replace(encoder.preprocessing, frames=6)" in str(caught.value)


def test_an_array_of_one_channel_is_grey_with_and_without_its_axis() -> None:
    grey = PIXELS[..., :1]
    for steps in (GREY, RGB):
        expected = array_of(to_picture(grey[..., 0], steps))
        assert np.array_equal(array_of(to_picture(grey, steps)), expected)
    assert "The image has 2 channels, and the encoder takes 1." in refused(PIXELS[..., :2], GREY)
