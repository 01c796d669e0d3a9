"""How a resize to (height, width) fits an image, and the fill around a small image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from headstrip import Preprocessing, PreprocessingError
from headstrip.images.inputs import to_picture
from headstrip.images.preprocessing import Fit

PLAIN = Preprocessing(crop=(20, 24), resize=(20, 24), mean=(0.0,) * 3, std=(1.0,) * 3, rescale=1.0)
COVER = replace(PLAIN, fit="cover")
CONTAIN = replace(PLAIN, fit="contain")
GREY = (10, 20, 30)
FITS = get_args(Fit)

sides = st.integers(1, 900)
shapes = st.tuples(sides, sides)


def pixels(height: int, width: int, *leading: int) -> Tensor:
    """Make a tensor (..., 3, height, width) of uint8."""
    shape = (*leading, 3, height, width)
    return torch.from_numpy(np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8))


def picture(tensor: Tensor) -> Image.Image:
    return functional.to_pil_image(tensor)


def border_of(out: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return the pixels (3, n) outside a rectangle."""
    outside = torch.ones(out.shape[-2:], dtype=torch.bool)
    outside[top : top + height, left : left + width] = False
    return out[:, outside]


@pytest.mark.parametrize(
    ("preprocessing", "shape", "expected"),
    [
        (PLAIN, (30, 60), (20, 24)),
        (COVER, (30, 60), (20, 40)),
        (COVER, (60, 30), (48, 24)),
        (COVER, (5, 6), (20, 24)),
        (CONTAIN, (30, 60), (12, 24)),
        (CONTAIN, (60, 30), (20, 10)),
        (CONTAIN, (5, 6), (20, 24)),
        (replace(PLAIN, resize=10), (30, 61), (10, 20)),
        (replace(PLAIN, resize=10), (61, 30), (20, 10)),
        (replace(PLAIN, resize=None), (30, 61), (30, 61)),
    ],
    ids=str,
)
def test_the_size_after_the_resize_is_computed_without_an_image(
    preprocessing: Preprocessing, shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert preprocessing.resized(*shape) == expected


@given(shapes, shapes)
def test_cover_matches_one_side_and_at_least_fills_the_other(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    out = replace(COVER, resize=size).resized(*shape)
    assert min(out[0] - size[0], out[1] - size[1]) == 0


@given(shapes, shapes)
def test_contain_matches_one_side_and_at_most_fills_the_other(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    out = replace(CONTAIN, resize=size).resized(*shape)
    assert max(out[0] - size[0], out[1] - size[1]) == 0
    assert min(out) >= 1


@pytest.mark.parametrize("fit", ["cover", "contain"])
@given(shape=shapes, size=shapes)
def test_a_kept_ratio_is_off_by_less_than_a_pixel(
    fit: Any, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    height, width = replace(PLAIN, resize=size, fit=fit).resized(*shape)
    exact = (width * shape[0] / shape[1], height * shape[1] / shape[0])
    assert abs(exact[0] - height) < 1 or abs(exact[1] - width) < 1


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_a_resize_of_the_shorter_side_gives_torchvisions_size(
    shape: tuple[int, int], side: int
) -> None:
    resized = functional.resize(torch.zeros(1, *shape), [side])
    assert replace(PLAIN, resize=side).resized(*shape) == tuple(resized.shape[-2:])


@pytest.mark.parametrize("fit", FITS)
def test_the_image_is_resized_with_its_filter_and_cropped_in_the_centre(fit: Any) -> None:
    preprocessing = replace(PLAIN, crop=(8, 10), fit=fit, interpolation="bicubic")
    image = picture(pixels(31, 64))
    height, width = preprocessing.resized(31, 64)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - 8) / 2), round((width - 10) / 2)
    expected = resized.crop((left, top, left + 10, top + 8))
    assert torch.equal(preprocessing.transform()(image), functional.pil_to_tensor(expected).float())


@pytest.mark.parametrize("fit", FITS)
def test_tensors_are_antialiased_only_if_antialias_is_true(fit: Any) -> None:
    preprocessing, image = replace(PLAIN, fit=fit, fill=GREY), pixels(130, 97)
    smooth, rough = preprocessing.transform(), replace(preprocessing, antialias=False).transform()
    assert (smooth(image) - smooth(picture(image))).abs().max() <= 1
    assert not torch.equal(smooth(image), rough(image))


@pytest.mark.parametrize("fill", [None, GREY])
@pytest.mark.parametrize("fit", FITS)
def test_a_clip_and_a_batch_have_the_pixels_of_their_images(fit: Any, fill: Any) -> None:
    images = pixels(9, 31, 4)
    preprocessing = replace(PLAIN, crop=(23, 22), fit=fit, fill=fill)
    expected = torch.stack([preprocessing.transform()(image) for image in images])
    assert torch.equal(preprocessing.transform()(images), expected)
    clip = replace(preprocessing, frames=4).transform()
    assert torch.equal(clip(images), expected.movedim(0, 1))
    assert torch.equal(clip(images[None])[0], expected.movedim(0, 1))


def test_an_image_smaller_than_the_crop_is_surrounded_by_the_fill() -> None:
    image = pixels(30, 60)
    for given_image in (image, picture(image)):
        out = replace(CONTAIN, fill=GREY).transform()(given_image)
        assert out.shape == (3, 20, 24)
        border = border_of(out, 4, 0, 12, 24)
        assert torch.equal(border, torch.tensor(GREY)[:, None].float().expand_as(border))
    whole = functional.pil_to_tensor(picture(image).resize((24, 12), Image.Resampling.BILINEAR))
    assert torch.equal(out[:, 4:16], whole.float())


@given(shapes, shapes, st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_odd_pixel_of_a_border_is_at_the_bottom_and_the_right(
    shape: tuple[int, int], size: tuple[int, int], as_tensor: bool
) -> None:
    shape, size = tuple(1 + x % 40 for x in shape), tuple(1 + x % 40 for x in size)
    white = torch.full((3, *shape), 255, dtype=torch.uint8)
    preprocessing = replace(PLAIN, crop=size, resize=None, fill=GREY)
    out = preprocessing.transform()(white if as_tensor else picture(white))
    top, left = (max(0, (size[axis] - shape[axis]) // 2) for axis in (0, 1))
    height, width = (min(size[axis], shape[axis]) for axis in (0, 1))
    assert (out[:, top : top + height, left : left + width] == 255).all()
    border = border_of(out, top, left, height, width)
    assert torch.equal(border, torch.tensor(GREY)[:, None].float().expand_as(border))


@pytest.mark.parametrize("preprocessing", [CONTAIN, replace(PLAIN, resize=None)], ids=["fit", "as"])
def test_a_fill_of_zeros_equals_the_default_border(preprocessing: Preprocessing) -> None:
    image = pixels(15, 9)
    black = replace(preprocessing, fill=(0, 0, 0)).transform()
    for given_image in (image, picture(image)):
        assert torch.equal(black(given_image), preprocessing.transform()(given_image))


@given(shapes)
@settings(max_examples=25, deadline=None)
def test_a_fill_changes_nothing_for_an_image_that_covers_the_crop(shape: tuple[int, int]) -> None:
    image = pixels(*(1 + side % 50 for side in shape))
    filled = replace(COVER, fill=GREY).transform()
    assert torch.equal(filled(image), COVER.transform()(image))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_a_fill_has_a_value_for_every_channel(channels: int) -> None:
    fill = tuple(range(7, 7 + channels))
    preprocessing = Preprocessing(
        crop=(9, 9), resize=None, mean=(0.0,) * channels, std=(1.0,) * channels, fill=fill
    )
    out = preprocessing.transform()(torch.zeros((channels, 5, 5), dtype=torch.uint8)) * 255
    torch.testing.assert_close(out[:, 0, 0], torch.tensor(fill).float())
    assert (out[:, 2:7, 2:7] == 0).all()


def test_the_fill_is_rescaled_and_normalised_like_pixels() -> None:
    half = replace(CONTAIN, rescale=255.0, mean=(0.5,) * 3, std=(0.25,) * 3, fill=(0, 255, 51))
    out = half.transform()(torch.zeros((3, 1, 60), dtype=torch.uint8))
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([-2.0, 2.0, -1.2]))


def test_an_image_that_cover_would_make_huge_is_refused() -> None:
    strip = Image.new("RGB", (1, 60_000))
    cover = replace(COVER, resize=(256, 300))
    with pytest.raises(PreprocessingError, match="with its shorter side at 300 it would have more"):
        to_picture(strip, cover)
    assert to_picture(strip, replace(cover, fit="contain")) is strip


def test_a_narrow_image_keeps_at_least_one_pixel_per_side() -> None:
    assert CONTAIN.resized(1, 60_000) == (1, 24)
    assert CONTAIN.transform()(Image.new("RGB", (60_000, 1))).shape == (3, 20, 24)


def test_for_input_keeps_fit_and_fill() -> None:
    other = replace(CONTAIN, resize=(40, 24), fill=GREY).for_input((3, 40, 36))
    assert other == replace(CONTAIN, crop=(40, 36), resize=(80, 36), fill=GREY)


def test_preprocessings_with_another_fit_or_fill_are_not_equal() -> None:
    assert len({PLAIN, COVER, CONTAIN, replace(PLAIN, fill=GREY), replace(PLAIN, fill=None)}) == 4


def test_json_has_fit_and_fill_only_if_they_are_not_the_default() -> None:
    assert not {"fit", "fill"} & set(PLAIN.to_json())
    written = replace(CONTAIN, fill=GREY).to_json()
    assert (written["fit"], written["fill"]) == ("contain", [10, 20, 30])
    assert Preprocessing.from_json(written) == replace(CONTAIN, fill=GREY)


def test_a_transform_prints_fit_and_fill() -> None:
    printed = repr(replace(CONTAIN, fill=GREY).transform())
    assert "[20, 24], 'contain', 'bilinear'" in printed
    assert "[20, 24], fill=[10, 20, 30]" in printed


@pytest.mark.parametrize("fit", ["stretch", "", None, ["cover"], 1], ids=str)
def test_an_unknown_fit_is_refused_and_the_known_ones_are_named(fit: Any) -> None:
    with pytest.raises(PreprocessingError, match=r"There is no fit .*squash, cover, contain"):
        replace(PLAIN, fit=fit)


@pytest.mark.parametrize("fit", ["cover", "contain"])
@pytest.mark.parametrize("resize", [256, None])
def test_a_fit_without_a_height_and_width_is_refused(resize: int | None, fit: Any) -> None:
    with pytest.raises(
        PreprocessingError, match=rf"'{fit}' needs a height and a width.*\(height, width\)"
    ):
        replace(PLAIN, resize=resize, fit=fit)


@pytest.mark.parametrize(
    "fill",
    [
        (),
        (0,),
        (0, 0),
        (0, 0, 0, 0),
        (0, 0, 256),
        (0, -1, 0),
        (0.5, 0, 0),
        (1.0, 0, 0),
        (True, 0, 0),
        ("0", 0, 0),
        0,
        128,
        "abc",
        {1, 2, 3},
    ],
    ids=str,
)
def test_an_invalid_fill_is_refused(fill: Any) -> None:
    with pytest.raises(PreprocessingError, match=r"not a pixel of 3 channels.*0 to 255"):
        replace(PLAIN, fill=fill)


def test_json_with_a_fit_but_no_height_and_width_is_refused() -> None:
    with pytest.raises(PreprocessingError, match="got resize=256"):
        Preprocessing.from_json({**PLAIN.to_json(), "resize": 256, "fit": "cover"})


@pytest.mark.parametrize("shape", [(3, 96, 160), (3, 160, 96), (3, 64, 200)])
def test_for_input_covers_a_crop_of_unequal_sides_with_any_image(shape):
    square = Preprocessing(crop=(224, 224), resize=248, mean=(0.0,) * 3, std=(1.0,) * 3)
    other = square.for_input(shape)
    assert (other.crop, other.fit) == (shape[1:], "cover")
    for size in [(500, 333), (333, 500), (50, 700)]:
        pixels = other.transform()(Image.new("RGB", size, "white"))
        assert pixels.shape == shape
        assert bool((pixels == 1).all())


def test_for_input_scales_the_resize_and_keeps_it_for_the_same_size():
    square = Preprocessing(crop=(224, 224), resize=256, mean=(0.5,), std=(0.5,))
    assert square.for_input((1, 112, 112)).resize == 128
    assert square.for_input((1, 224, 224)) == square


SHARE = Preprocessing((224, 224), 248, (0.5,) * 3, (0.5,) * 3, "bicubic", crop_pct=0.9)


def test_crop_pct_determines_the_resize_of_another_size():
    assert SHARE.for_input((3, 384, 384)).resize == 426
    assert replace(SHARE, crop_pct=None).for_input((3, 384, 384)).resize == 425
    assert SHARE.for_input((3, 384, 384)).for_input((3, 224, 224)) == SHARE


def test_a_resize_that_differs_from_crop_pct_is_scaled():
    assert replace(SHARE, resize=256).for_input((3, 448, 448)).resize == 512


@pytest.mark.parametrize("share", [0, -0.5, float("nan"), "0.9"])
def test_an_invalid_crop_pct_is_refused(share):
    with pytest.raises(PreprocessingError, match=r"crop_pct must be a number above zero"):
        replace(SHARE, crop_pct=share)
