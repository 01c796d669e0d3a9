"""Pixels computed without torch match those of the declared transform, bit for bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

import headstrip
from headstrip import Preprocessing, PreprocessingError
from headstrip.images.decode import decode_bytes, load_image
from headstrip.images.inputs import to_picture
from headstrip.images.pixels import MARGIN, decode_reduced, to_pixels, to_pixels_fast
from headstrip.images.preprocessing import INTERPOLATIONS
from headstrip.registry.catalog import WeightsTable

PLUGINS = Path(__file__).parents[2] / "plugins"
RGB = Preprocessing(crop=(24, 20), resize=26, mean=(0.5,) * 3, std=(0.5,) * 3)
GREY = replace(RGB, mean=(0.5,), std=(0.5,))
LARGE = replace(RGB, crop=(56, 56), resize=64)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    generator = np.random.default_rng(width * 1000 + height)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(generator.integers(0, 256, shape, np.uint8))


def transformed(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Return the pixels at the step where the transform makes a tensor, channels last."""
    steps = list(preprocessing.transform().transforms)  # type: ignore[arg-type]
    until = next(at for at, step in enumerate(steps) if isinstance(step, v2.PILToTensor)) + 1
    tensor = v2.Compose(steps[:until])(to_picture(image, preprocessing))
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())


def assert_equal(image: Image.Image, preprocessing: Preprocessing) -> None:
    found, expected = to_pixels(image, preprocessing), transformed(image, preprocessing)
    assert found.dtype == np.uint8
    assert found.shape == (*preprocessing.crop, preprocessing.channels)
    assert np.array_equal(found, expected)


SIZES = [(333, 640), (500, 375), (61, 40), (9, 1), (1, 7)]


@cache
def of_catalogs() -> list[Preprocessing]:
    """Return all preprocessings of torchvision's and timm's weights."""
    files = [Path(headstrip.__file__).parent, PLUGINS / "headstrip-timm/src/headstrip_timm"]
    found: dict[Preprocessing, Preprocessing] = {}
    for folder in files:
        table = WeightsTable(folder / "weights.tsv")
        for entry in (entry for name in table.names() for entry in table.entries(name)):
            steps = entry.preprocessing
            if steps is not None and steps.frames is None:
                pixels = replace(steps, mean=(0.5,) * steps.channels, std=(0.5,) * steps.channels)
                found[pixels] = pixels
    return list(found.values())


def test_the_catalogs_have_many_preprocessings() -> None:
    assert len(of_catalogs()) > 60
    assert {steps.interpolation for steps in of_catalogs()} >= {"bilinear", "bicubic"}


@pytest.mark.parametrize(
    "size",
    [(320, 240), *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES)],
    ids=str,
)
def test_every_preprocessing_of_the_catalogs_gives_the_pixels_of_its_transform(
    size: tuple[int, int],
) -> None:
    image = picture(*size)
    for steps in of_catalogs():
        assert_equal(image, steps)


sides = st.integers(1, 90)
pixel = st.integers(0, 255)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    channels = draw(st.sampled_from([1, 3]))
    resize = draw(st.none() | sides | st.tuples(sides, sides))
    fits = ("squash", "cover", "contain") if isinstance(resize, tuple) else ("squash",)
    return Preprocessing(
        crop=draw(st.tuples(sides, sides)),
        resize=resize,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
        fit=draw(st.sampled_from(fits)),
        fill=draw(st.none() | st.tuples(*[pixel] * channels)),
    )


MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16"]


@given(preprocessings(), sides, sides, st.sampled_from(MODES))
@example(replace(RGB, crop=(5, 5), resize=(9, 9), fill=(1, 2, 3)), 1, 1, "RGB")
@example(replace(GREY, crop=(5, 5), resize=4, fill=(9,)), 3, 2, "I;16")
@settings(deadline=None, max_examples=200)
def test_any_preprocessing_gives_the_pixels_of_its_transform(
    steps: Preprocessing, width: int, height: int, mode: str
) -> None:
    image = picture(width, height)
    if steps.channels == 1:
        image = image.convert("L").convert("RGB")
    if mode == "I;16":
        # headstrip cannot determine black and white in one small 16-bit image.
        steps = replace(steps, value_range="dtype")
        image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image = image.quantize(16)
    elif mode == "LA":
        image = image.convert("L").convert("LA")
    else:
        image = image.convert(mode)
    assert_equal(image, steps)


def test_images_that_the_transform_refuses_are_refused_too() -> None:
    strip, empty = Image.new("L", (1, 60_000)), Image.new("RGB", (0, 5))
    for image, message in (
        (strip, "Crop it"),
        (empty, "no pixels"),
        (Image.new("F", (3, 3)), "'F'"),
    ):
        with pytest.raises(PreprocessingError, match=message):
            to_pixels(image, replace(RGB, resize=256))


def jpeg(width: int, height: int, orientation: int = 1, mode: str = "RGB") -> bytes:
    """Return a photograph-like JPEG: a few colours with smooth transitions."""
    small = picture(9, 7).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    small.save(file, "JPEG", quality=92, exif=exif)
    return file.getvalue()


def both(data: bytes, steps: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    exact = to_pixels(decode_bytes(data), steps)
    return exact, to_pixels_fast(decode_reduced(data, steps), steps)


@pytest.mark.parametrize(
    ("width", "height", "reduced"),
    [
        (1600, 1200, (400, 300)),
        (1601, 1203, (401, 301)),
        (380, 380, (380, 380)),
        (384, 384, (192, 192)),
        (4000, 387, (2000, 194)),
        (30, 20, (30, 20)),
    ],
)
def test_a_large_jpeg_is_decoded_smaller_but_never_below_the_margin(
    width: int, height: int, reduced: tuple[int, int]
) -> None:
    found = decode_reduced(jpeg(width, height), LARGE)
    assert (found.width, found.height) == (width, height)
    assert found.image.size == reduced
    resized = LARGE.resized(height, width)
    assert found.image.size == (width, height) or found.image.height >= MARGIN * resized[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(800, 600), (803, 605)], ids=str)
def test_the_fast_mode_shows_the_same_part_in_every_orientation(
    size: tuple[int, int], orientation: int
) -> None:
    data = jpeg(*size, orientation)
    exact, fast = both(data, LARGE)
    assert decode_reduced(data, LARGE).image.size != decode_bytes(data).size
    assert np.abs(exact.astype(int) - fast).max() <= 4
    found = decode_reduced(data, LARGE)
    assert (found.width, found.height) == decode_bytes(data).size


@given(preprocessings(), st.integers(1, 400), st.integers(1, 400), st.integers(1, 8))
@settings(deadline=None, max_examples=100)
def test_the_fast_mode_accepts_any_preprocessing_and_size(
    steps: Preprocessing, width: int, height: int, orientation: int
) -> None:
    mode = "L" if steps.channels == 1 else "RGB"
    fast = both(jpeg(width, height, orientation, mode), steps)[1]
    assert fast.shape == (*steps.crop, steps.channels)
    assert fast.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_the_fast_mode_accepts_grey_and_cmyk(mode: str) -> None:
    exact, fast = both(jpeg(800, 600, mode=mode), LARGE)
    assert np.abs(exact.astype(int) - fast).max() <= 4


def test_the_fast_mode_is_exact_if_nothing_is_reduced(save: Callable[..., Path]) -> None:
    for name in ("a.png", "a.webp", "a.tif"):
        data = save(name, 3).read_bytes()
        steps = replace(LARGE, resize=None)
        exact, fast = both(data, steps)
        assert np.array_equal(exact, fast)


def test_bytes_give_the_same_image_as_the_file(save: Callable[..., Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.jpg", "a.tif", "a.webp"):
        path = save(name, exif=exif)
        assert np.array_equal(
            np.asarray(decode_bytes(path.read_bytes())), np.asarray(load_image(path))
        )
