"""Images of any number of channels: arrays, and TIFF files of several bands."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.images.deep_images import tiff

from headstrip import ImageError, Preprocessing, PreprocessingError
from headstrip.images.bands import read_bands
from headstrip.images.inputs import to_picture
from headstrip.images.pixels import to_pixels


def steps(channels: int, **changes: object) -> Preprocessing:
    plain = Preprocessing((9, 11), None, (0.0,) * channels, (1.0,) * channels, value_range="dtype")
    return replace(plain, **changes)  # type: ignore[arg-type]


def values(channels: int, dtype: str = "uint8") -> np.ndarray:
    most = 65536 if dtype == "uint16" else 256
    return np.random.default_rng(0).integers(0, most, (9, 11, channels)).astype(dtype)


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_an_array_keeps_its_channels(channels: int) -> None:
    array = values(channels)
    assert np.array_equal(to_pixels(to_picture(array, steps(channels)), steps(channels)), array)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_16_bits_are_scaled_by_the_range_of_the_type_or_by_the_given_range(channels: int) -> None:
    array = values(channels, "uint16")
    found = to_pixels(to_picture(array, steps(channels)), steps(channels))
    assert np.array_equal(found, np.round(array / 257))
    named = steps(channels, value_range=(0, 4095))
    wanted = np.round(np.clip(array, 0, 4095).astype(float) * 255 / 4095)
    assert np.array_equal(to_pixels(to_picture(array, named), named), wanted)


def test_channels_on_several_pages_are_refused(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(values(1)[..., 0])] * 5
    first.save(tmp_path / "pages.tif", save_all=True, append_images=others)
    with pytest.raises(PreprocessingError, match=r"several pages.*\(height, width, 5\) of them"):
        to_picture(tmp_path / "pages.tif", steps(5))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_second_band_that_is_not_alpha_is_refused(channels: int) -> None:
    with pytest.raises(PreprocessingError, match="of 2 channels, of which the second is not alpha"):
        to_picture(tiff(values(2), photometric=1, tags=[(338, "H", [0])]), steps(channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_fourth_band_that_is_not_alpha_needs_four_channels(channels: int, dtype: str) -> None:
    array = values(4, dtype)
    data = tiff(array, photometric=2, tags=[(338, "H", [0])])
    with pytest.raises(PreprocessingError, match=r"fourth is neither.*\('R', 'G', 'B', None\)"):
        to_picture(data, steps(channels))
    assert to_pixels(to_picture(data, steps(4)), steps(4)).shape == array.shape
    is_alpha = tiff(array, photometric=2, tags=[(338, "H", [2])])
    assert to_pixels(to_picture(is_alpha, steps(3)), steps(3)).shape == (*array.shape[:2], 3)


def test_bands_keep_their_stored_values_if_0_is_white() -> None:
    array = values(5)
    assert np.array_equal(
        to_pixels(to_picture(tiff(array, photometric=0), steps(5)), steps(5)), array
    )


def test_the_error_names_a_compression_that_pillow_cannot_read() -> None:
    data = tiff(values(5), photometric=1).replace(
        struct.pack("<HHIH", 259, 3, 1, 1), struct.pack("<HHIH", 259, 3, 1, 34887)
    )
    with pytest.raises(ImageError, match="a TIFF with the compression 34887"):
        to_picture(data, steps(5))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_floating_point_values_need_a_value_range(channels: int) -> None:
    array = values(channels).astype(np.float32) / 255
    with pytest.raises(PreprocessingError, match="whose range is not known"):
        to_picture(array, steps(channels))
    named = steps(channels, value_range=(0, 1))
    assert np.array_equal(to_pixels(to_picture(array, named), named), values(channels))


def test_each_channel_is_resized_and_cropped_like_a_grey_image() -> None:
    five = steps(5, crop=(5, 6), resize=7)
    found = to_pixels(to_picture(values(5), five), five)
    one = replace(five, mean=(0.0,), std=(1.0,))
    for at in range(5):
        grey = Image.fromarray(np.ascontiguousarray(values(5)[..., at]))
        assert np.array_equal(found[..., at], to_pixels(grey, one)[..., 0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"planes": 2},
        {"rows": 2},
        {"tile": 16},
        {"compression": "zlib", "rows": 4},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "predictor": True, "tile": 16},
        {"photometric": 2},
    ],
    ids=str,
)
def test_a_tiff_of_several_bands_has_the_values_of_its_array(
    dtype: str, order: str, layout: dict[str, Any]
) -> None:
    array = np.tile(values(5, dtype), (2, 3, 1))
    data = tiff(array, **{"photometric": 1, **layout}, order=order)
    for source in (data, io.BytesIO(data)):
        found = to_pixels(to_picture(source, steps(5)), steps(5))
        assert np.array_equal(found, to_pixels(to_picture(array, steps(5)), steps(5)))


def test_a_floating_point_tiff_is_scaled_by_the_given_range() -> None:
    array, named = values(4).astype(np.float32) / 255, steps(4, value_range=(0, 1))
    data = tiff(array, photometric=1)
    assert np.array_equal(to_pixels(to_picture(data, named), named), values(4))


@pytest.mark.parametrize("layout", [{}, {"rows": 2}, {"tile": 16}], ids=str)
def test_a_bigtiff_has_the_values_of_its_array(layout: dict[str, Any]) -> None:
    data = tiff(values(5, "uint16"), photometric=1, is_big=True, **layout)
    found = to_pixels(to_picture(data, steps(5)), steps(5))
    assert np.array_equal(found, np.round(values(5, "uint16") / 257))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_big_endian_bigtiff_is_refused_with_a_remedy(channels: int) -> None:
    with pytest.raises(ImageError, match=r"big-endian BigTIFF\. Save it as a plain TIFF"):
        to_picture(tiff(values(channels), photometric=1, is_big=True, order=">"), steps(channels))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_three_bands_that_are_not_colours_are_read_for_three_channels(
    tmp_path: Path, dtype: str
) -> None:
    array = values(3, dtype)
    (tmp_path / "three.tif").write_bytes(tiff(array, photometric=1))
    found = to_pixels(to_picture(tmp_path / "three.tif", steps(3)), steps(3))
    assert np.array_equal(found, to_pixels(to_picture(array, steps(3)), steps(3)))


def test_bands_are_displayed_as_their_first_three_channels_or_as_grey() -> None:
    shown = [to_picture(values(count), steps(count)).shown() for count in (2, 5)]
    assert np.array_equal(np.asarray(shown[0]), values(2)[..., 0])
    assert np.array_equal(np.asarray(shown[1]), values(5)[..., :3])


def test_bands_that_were_read_before_are_accepted_as_an_image() -> None:
    bands = to_picture(values(5), steps(5))
    assert to_picture(bands, steps(5)) is bands
    with pytest.raises(PreprocessingError, match="has 5 channels, and the encoder takes 4"):
        to_picture(bands, steps(4))


def test_a_tiff_of_signed_values_is_refused() -> None:
    data = tiff(values(5).astype(np.int16), photometric=1)
    with pytest.raises(ImageError, match="5 channels with values of 16 bits"):
        to_picture(data, steps(5))


def test_a_tiff_with_another_number_of_bands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "five.tif").write_bytes(tiff(values(5), photometric=1))
    with pytest.raises(PreprocessingError, match=r"has 5 channels, and the encoder takes 4\..*=5"):
        to_picture(tmp_path / "five.tif", steps(4))


def test_a_file_that_is_not_a_tiff_has_no_bands() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (9, 11)).save(out, "PNG")
    with pytest.raises(PreprocessingError, match="only a TIFF has 4 channels that are not colours"):
        read_bands(out.getvalue(), steps(4))
    with pytest.raises(PreprocessingError, match="has 4 channels, and the encoder takes 5"):
        read_bands(out.getvalue(), steps(5))


@pytest.mark.parametrize("cut", [9, 60, 200])
def test_a_damaged_tiff_raises_an_image_error(cut: int) -> None:
    with pytest.raises((ImageError, PreprocessingError)):
        read_bands(tiff(values(5), photometric=1)[:cut], steps(5))
