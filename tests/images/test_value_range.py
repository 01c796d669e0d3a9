"""Images with more than 8 bits per channel: the range comes from the file or from the caller."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import tiny_encoder
from tests.images.deep_images import PACKED, plain_ppm, png, ppm, tiff

from headstrip import HeadstripError, ImageError, Preprocessing, PreprocessingError
from headstrip.embed.run import embed_source
from headstrip.images.decode import load_image
from headstrip.images.inputs import to_picture
from headstrip.images.preprocessing import parse_value_range

STEPS = Preprocessing(crop=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
GREY = np.random.default_rng(0).permutation(np.arange(42) * 6).astype(np.uint8).reshape(6, 7)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
GREY[0, 0], GREY[0, 1] = 0, 255


def deepened(values: np.ndarray, bits: int = 16) -> np.ndarray:
    """Return the same picture with more bits, in a type that can hold them."""
    most = (1 << bits) - 1
    kind = np.uint16 if bits <= 16 else np.uint32
    return np.round(values.astype(np.float64) * most / 255).astype(kind)


def seen(image: Any, **changes: Any) -> np.ndarray:
    return np.asarray(to_picture(image, replace(STEPS, **changes)))


def three(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, axis=-1) if values.ndim == 2 else values


def refusal(image: Any, **changes: Any) -> str:
    with pytest.raises(HeadstripError) as caught:
        seen(image, **changes)
    return str(caught.value)


def white_zero(values: np.ndarray) -> np.ndarray:
    return values.max(initial=0) - values


WHOLE: dict[str, Callable[[], bytes]] = {
    "grey TIFF": lambda: tiff(deepened(GREY), photometric=1),
    "big-endian TIFF": lambda: tiff(deepened(GREY), photometric=1, order=">"),
    "colour TIFF": lambda: tiff(deepened(COLOUR), photometric=2),
    "big-endian colour TIFF": lambda: tiff(deepened(COLOUR), photometric=2, order=">"),
    "TIFF, white is zero": lambda: tiff(65535 - deepened(GREY), photometric=0),
    "signed TIFF": lambda: tiff(
        (deepened(GREY).astype(np.int32) - 32768).astype(np.int16), photometric=1
    ),
    "signed TIFF of 8 bits": lambda: tiff((GREY.astype(int) - 128).astype(np.int8), photometric=1),
    "big-endian signed TIFF of 8 bits": lambda: tiff(
        (GREY.astype(int) - 128).astype(np.int8),
        photometric=1,
        order=">",
        rows=2,
        compression="zlib",
    ),
    "signed TIFF of 8 bits that states 7": lambda: tiff(
        (GREY // 2).astype(np.int8), photometric=1, tags=[(340, "b", [0]), (341, "b", [127])]
    ),
    "unsigned TIFF of 32 bits": lambda: tiff(deepened(GREY, 32), photometric=1),
    "signed TIFF of 32 bits": lambda: tiff(
        (deepened(GREY, 32).astype(np.int64) - (1 << 31)).astype(np.int32), photometric=1
    ),
    "32 bits that hold 16": lambda: tiff(deepened(GREY).astype(np.int32), photometric=1),
    "grey PNG": lambda: png(deepened(GREY)),
    "colour PNG": lambda: png(deepened(COLOUR)),
    "PGM": lambda: ppm(deepened(GREY), 65535),
    "PPM": lambda: ppm(deepened(COLOUR), 65535),
    "TIFF that states 12 bits": lambda: tiff(
        deepened(GREY, 12), photometric=1, tags=[(281, "H", [4095])]
    ),
    "TIFF that states 10 bits of signed numbers": lambda: tiff(
        deepened(GREY, 10).astype(np.int16) - 512,
        photometric=1,
        tags=[(340, "h", [-512]), (341, "h", [511])],
    ),
    "colour TIFF that states 12 bits": lambda: tiff(
        deepened(COLOUR, 12), photometric=2, tags=[(280, "H", [0] * 3), (281, "H", [4095] * 3)]
    ),
    "TIFF of floats that states 0 to 1": lambda: tiff(
        (GREY / 255).astype(np.float32), photometric=1, tags=[(340, "f", [0]), (341, "f", [1])]
    ),
    "PGM of 12 bits": lambda: ppm(deepened(GREY, 12), 4095),
    "PPM of 12 bits": lambda: ppm(deepened(COLOUR, 12), 4095),
    "PGM of digits, 12 bits": lambda: plain_ppm(deepened(GREY, 12), 4095),
    "PPM of digits, 12 bits": lambda: plain_ppm(deepened(COLOUR, 12), 4095),
    "PPM of digits": lambda: plain_ppm(deepened(COLOUR), 65535),
}
"""Files that state their range of values, or use the whole range of their type."""


@pytest.mark.parametrize("kind", WHOLE)
def test_an_image_of_more_bits_gives_its_8_bit_pixels(kind: str) -> None:
    data = WHOLE[kind]()
    expected = three(COLOUR if "colour" in kind or "PPM" in kind else GREY)
    assert np.abs(seen(data).astype(int) - expected).max() <= (
        1 if "10" in kind or "states 7" in kind else 0
    )
    assert np.array_equal(seen(Image.open(io.BytesIO(data))), seen(data))


NARROW: dict[str, Callable[[], bytes]] = {
    "grey TIFF": lambda: tiff(deepened(GREY, 12), photometric=1),
    "big-endian TIFF": lambda: tiff(deepened(GREY, 12), photometric=1, order=">"),
    "colour TIFF": lambda: tiff(deepened(COLOUR, 12), photometric=2),
    "big-endian colour TIFF": lambda: tiff(deepened(COLOUR, 12), photometric=2, order=">"),
    "TIFF, white is zero": lambda: tiff(4095 - deepened(GREY, 12), photometric=0),
    "signed TIFF": lambda: tiff(deepened(GREY, 12).astype(np.int16), photometric=1),
    "TIFF of 32 bits": lambda: tiff(deepened(GREY, 12).astype(np.uint32), photometric=1),
    "TIFF of floats": lambda: tiff(deepened(GREY, 12).astype(np.float32), photometric=1),
    "grey PNG": lambda: png(deepened(GREY, 12)),
    "colour PNG": lambda: png(deepened(COLOUR, 12)),
    "PNG with alpha": lambda: png(
        np.concatenate([deepened(COLOUR, 12), np.full((6, 7, 1), 65535, np.uint16)], axis=-1)
    ),
    "grey PNG with alpha": lambda: png(
        np.stack([deepened(GREY, 12), np.full((6, 7), 65535, np.uint16)], axis=-1)
    ),
    "PGM": lambda: ppm(deepened(GREY, 12), 65535),
    "PPM": lambda: ppm(deepened(COLOUR, 12), 65535),
    "PGM of digits": lambda: plain_ppm(deepened(GREY, 12), 65535),
    "PPM of digits": lambda: plain_ppm(deepened(COLOUR, 12), 65535),
}
"""Files of 12 bits that do not state their range."""


@pytest.mark.parametrize("kind", NARROW)
def test_twelve_bits_without_a_stated_range_need_a_value_range(
    kind: str,
) -> None:
    data = NARROW[kind]()
    assert "value_range=(0, 4095)" in refusal(data) or "mode 'F'" in refusal(data)
    is_colour = "olour" in kind or "PPM" in kind or kind == "PNG with alpha"
    expected = three(COLOUR if is_colour else GREY)
    assert np.array_equal(seen(data, value_range=(0, 4095)), expected)
    lazy = Image.open(io.BytesIO(data))
    assert np.array_equal(seen(lazy, value_range=(0, 4095)), expected)
    assert refusal(Image.open(io.BytesIO(data))) == refusal(data)


@pytest.mark.parametrize("kind", ["colour TIFF", "colour PNG", "PNG with alpha"])
def test_loaded_colour_without_its_lower_bits_is_refused(kind: str) -> None:
    image = Image.open(io.BytesIO(NARROW[kind]()))
    image.load()
    assert "use too little" in refusal(image)
    assert "Pass the path or the bytes" in refusal(image, value_range=(0, 4095))


LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rows": 2},
    "strips of one row": {"rows": 1},
    "tiles": {"tile": 16},
    "small tiles": {"tile": 16, "repeat": 4},
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("predictor", [False, True], ids=["", "predictor"])
@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [False, True], ids=["RGB", "RGBA"])
def test_the_value_range_works_for_every_layout_of_a_colour_tiff(
    layout: str, compression: str, predictor: bool, order: str, alpha: bool
) -> None:
    options = dict(LAYOUTS[layout])
    colour = np.tile(COLOUR, (options.get("repeat", 1),) * 2 + (1,))
    options.pop("repeat", None)
    values = deepened(colour, 12)
    if alpha:
        opaque = np.full((*values.shape[:2], 1), 65535, np.uint16)
        values = np.concatenate([values, opaque], axis=-1)
    options |= {"compression": compression, "order": order, "photometric": 2}
    options |= {"predictor": predictor and compression != "none"}
    bare = tiff(values, **options)
    assert "use too little" in refusal(bare)
    for image in (bare, Image.open(io.BytesIO(bare))):
        assert np.array_equal(seen(image, value_range=(0, 4095)), colour)
    stating = tiff(values, tags=[(280, "H", [0]), (281, "H", [4095])], **options)
    for image in (stating, Image.open(io.BytesIO(stating))):
        assert np.array_equal(seen(image), colour)


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
def test_the_range_of_32_bits_is_derived_from_the_values(kind: type) -> None:
    values = np.array([[0, 32768, 65535]])
    for choice in ("auto", "dtype"):
        found = seen(tiff(values.astype(kind), photometric=1), value_range=choice)
        assert found[0, :, 0].tolist() == [0, 128, 255]
        wrong = refusal(tiff((values * 2).astype(kind), photometric=1), value_range=choice)
        assert "value_range=(0, 131071)" in wrong
        assert "dtype" not in wrong


def test_signed_bytes_are_scaled_like_other_signed_numbers() -> None:
    def of(*values: int, tags: Any = ()) -> bytes:
        return tiff(np.array([values], np.int8), photometric=1, tags=tags)

    assert seen(of(-128, -1, 0, 127))[0, :, 0].tolist() == [0, 127, 128, 255]
    assert seen(of(-3, -3), value_range="dtype")[0, :, 0].tolist() == [125, 125]
    assert seen(of(-10, 0, 10, 90), value_range=(0, 20))[0, :, 0].tolist() == [0, 0, 128, 255]
    for unclear in (of(0, 60, 127), of(-1, -1), of(-8, 8)):
        assert "pixels of 8 bits, signed" in refusal(unclear)
        loaded = Image.open(io.BytesIO(unclear))
        loaded.load()
        assert refusal(loaded) == refusal(unclear)


VEILED: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {
    "colour PNG with alpha": lambda values, hidden: png(
        np.dstack([three(values), np.where(hidden, 0, 65535)]).astype(np.uint16)
    ),
    "grey PNG with alpha": lambda values, hidden: png(
        np.dstack([values, np.where(hidden, 0, 65535)]).astype(np.uint16)
    ),
    "colour TIFF with alpha": lambda values, hidden: tiff(
        np.dstack([three(values), np.where(hidden, 0, 65535)]).astype(np.uint16), photometric=2
    ),
    "colour TIFF with premultiplied alpha": lambda values, hidden: tiff(
        np.dstack([three(values), np.where(hidden, 0, 65535)]).astype(np.uint16),
        photometric=2,
        tags=[(338, "H", [1])],
    ),
    "grey PNG, one shade": lambda values, hidden: png(
        values, (b"tRNS", int(values[hidden][0]).to_bytes(2, "big"))
    ),
    "colour PNG, one of them": lambda values, hidden: png(
        three(values), (b"tRNS", int(values[hidden][0]).to_bytes(2, "big") * 3)
    ),
}
"""Files in which all transparent pixels have the same value."""


def veiled(kind: str, values: np.ndarray, below: int) -> bytes:
    hidden = np.arange(values.size).reshape(values.shape) % 5 == 0
    return VEILED[kind](np.where(hidden, below, values).astype(np.uint16), hidden)


@pytest.mark.parametrize("kind", VEILED)
def test_transparent_pixels_do_not_affect_the_range(kind: str) -> None:
    ramp = np.arange(1, 43, dtype=np.uint16).reshape(6, 7)
    assert "use too little" in refusal(veiled(kind, ramp * 90, 65535))
    lazy, loaded = (Image.open(io.BytesIO(veiled(kind, ramp * 90, 65535))) for _ in range(2))
    loaded.load()
    assert "use too little" in refusal(lazy)
    assert "use too little" in refusal(loaded)
    assert "use too little" in refusal(veiled(kind, ramp + 60_000, 0))
    wide = seen(veiled(kind, ramp * 1560, 7), background="black")
    assert abs(int(wide[5, 6, 0]) - 42 * 1560 / 257) <= 1


@pytest.mark.parametrize("kind", VEILED)
def test_a_fully_transparent_image_shows_only_the_background(kind: str) -> None:
    hidden = np.ones((4, 4), bool)
    data = VEILED[kind](np.full((4, 4), 900, np.uint16), hidden)
    for choice in ("auto", "dtype"):
        assert (seen(data, value_range=choice, background="#010203") == [1, 2, 3]).all()
    if "premultiplied" not in kind:
        assert "use too little" in refusal(data, background="keep")


def test_transparent_pixels_may_exceed_the_range_that_a_file_states() -> None:
    values = np.dstack([deepened(COLOUR, 12), np.full((6, 7), 65535, np.uint16)])
    values[0] = [65535, 65535, 65535, 0]
    data = tiff(values, photometric=2, tags=[(281, "H", [4095, 4095, 4095, 65535])])
    assert np.array_equal(seen(data)[1:], COLOUR[1:])
    assert (seen(data)[0] == 255).all()
    assert "states that its values are 0 to 4095" in refusal(data, background="keep")


def test_dtype_uses_the_whole_range_of_the_type() -> None:
    dark = seen(tiff(deepened(GREY, 12), photometric=1), value_range="dtype")
    assert np.array_equal(dark, three(np.round(deepened(GREY, 12) / 257).astype(np.uint8)))
    assert "mode 'F'" in refusal(Image.new("F", (4, 4)), value_range="dtype")


def test_values_outside_the_range_are_clipped_also_if_white_is_zero() -> None:
    values = np.array([[0, 100, 200, 300, 65535]], np.uint16)
    for photometric, expected in ((1, [0, 0, 128, 255, 255]), (0, [255, 255, 127, 0, 0])):
        found = seen(tiff(values, photometric=photometric), value_range=(100, 300))
        assert found[0, :, 0].tolist() == expected


def test_a_file_with_values_outside_its_stated_range_is_refused() -> None:
    message = refusal(tiff(deepened(GREY), photometric=1, tags=[(281, "H", [4095])]))
    assert "states that its values are 0 to 4095, but they are 0 to 65535" in message


def test_an_image_of_one_shade_is_refused_only_if_the_range_matters() -> None:
    for value, shade in ((0, 0), (40_000, 156), (65_535, 255)):
        assert (seen(Image.fromarray(np.full((4, 4), value, np.uint16))) == shade).all()
    assert "use too little" in refusal(Image.fromarray(np.full((4, 4), 4000, np.uint16)))


def test_images_of_8_bits_ignore_the_value_range() -> None:
    for image in (Image.fromarray(GREY), Image.fromarray(COLOUR)):
        assert np.array_equal(seen(image, value_range=(0, 4095)), three(np.asarray(image)))


def test_numbers_that_are_not_finite_are_refused() -> None:
    values = np.array([[0, np.nan]], np.float32)
    assert "not finite" in refusal(Image.fromarray(values), value_range=(0, 1))


@pytest.mark.parametrize(
    ("values", "photometric", "planes", "expected_message"),
    [
        (np.zeros((4, 4, 5), np.uint8), 1, 1, "it is a TIFF of 5 channels"),
        (np.zeros((4, 4, 8), np.uint16), 1, 1, "it is a TIFF of 8 channels"),
        (np.zeros((4, 4, 5), np.uint8), 2, 1, "it is a TIFF of 5 channels"),
        (np.zeros((4, 4, 3), np.float32), 2, 1, "3 channels of 32 bits (floating point"),
        (np.zeros((4, 4, 2), np.uint16), 1, 1, "2 channels of 16 bits (unsigned integers"),
        (np.zeros((4, 4, 3), np.uint16), 2, 2, "stored plane by plane"),
    ],
)
def test_the_error_for_an_unsupported_tiff_names_its_channels(
    values: np.ndarray, photometric: int, planes: int, expected_message: str
) -> None:
    message = refusal(tiff(values, photometric=photometric, planes=planes))
    assert expected_message in message
    assert "none of the formats" not in message


def test_value_ranges_are_parsed_and_invalid_ones_refused() -> None:
    assert parse_value_range("auto") == "auto"
    assert parse_value_range("-1000,3000.5") == (-1000.0, 3000.5)
    for text in ("", "1", "5,5", "9,1", "0,inf", "nan,1", "1,2,3", "full"):
        with pytest.raises(PreprocessingError, match="is not a range of values"):
            parse_value_range(text)
    with pytest.raises(PreprocessingError, match="is not a range of values"):
        replace(STEPS, value_range=(1, "2"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1e308, 1e308), (0, 1e39), (-1e200, 0), (1e-320, 2e-320), (0, 1e-300), (0, 10**400)],
)
def test_an_impossible_range_is_refused_in_every_form(low: float, high: float) -> None:
    data = replace(STEPS, value_range=(0, 1)).to_json() | {"value_range": [low, high]}
    for make in (
        lambda: replace(STEPS, value_range=(low, high)),
        lambda: Preprocessing.from_json(data),
        lambda: parse_value_range(f"{low},{high}"),
    ):
        with pytest.raises(PreprocessingError, match="is not a range of values"):
            make()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bounds", [(-3e38, 3e38), (0, 2e-38), (-2e-38, 0), (1e30, 3e30)])
def test_the_widest_and_the_narrowest_range_scale_correctly(bounds: tuple[float, float]) -> None:
    values = np.array([[*bounds, sum(bounds) / 2]], np.float32)
    found = seen(Image.fromarray(values), value_range=bounds)[0, :, 0].tolist()
    assert found[:2] == [0, 255]
    assert found[2] in {127, 128}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bounds", [(-1e308, 1e308), (0, float("inf")), (0, 1e-310)])
def test_an_impossible_range_in_a_file_is_ignored(bounds: tuple[float, float]) -> None:
    tags = [(340, "d", [bounds[0]]), (341, "d", [bounds[1]])]
    data = tiff((GREY / 255).astype(np.float32), photometric=1, tags=tags)
    assert "range is not known" in refusal(data)
    assert np.array_equal(seen(data, value_range=(0, 1)), three(GREY))


def test_only_a_custom_range_is_recorded_and_changes_the_identity() -> None:
    encoder = tiny_encoder()
    before = encoder.fingerprint.identity
    assert encoder.preprocessing is not None
    assert "value_range" not in encoder.preprocessing.to_json()
    encoder.preprocessing = replace(encoder.preprocessing, value_range=(0, 4095))
    assert encoder.fingerprint.identity != before
    assert Preprocessing.from_json(encoder.preprocessing.to_json()) == encoder.preprocessing


def test_a_run_with_another_range_cannot_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(NARROW["grey TIFF"]())
    encoder, out = tiny_encoder(), tmp_path / "out.parquet"
    report = embed_source(encoder, tmp_path / "in", out)
    assert "--value-range 0,4095" in report.failed["a.tif"]
    assert encoder.preprocessing is not None
    encoder.preprocessing = replace(encoder.preprocessing, value_range=(0, 4095))
    with pytest.raises(HeadstripError, match="value_range"):
        embed_source(encoder, tmp_path / "in", out)
    assert not embed_source(encoder, tmp_path / "in", tmp_path / "new.parquet").bad


def test_a_loaded_image_gives_the_same_pixels_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(WHOLE["TIFF that states 12 bits"]())
    assert np.array_equal(seen(load_image(path)), seen(path))
    with pytest.raises(ImageError, match="the file is empty"):
        seen(b"")


@pytest.mark.parametrize("write", [ppm, plain_ppm])
@pytest.mark.parametrize("values", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_way_to_pass_a_ppm_gives_the_same_pixels(
    values: np.ndarray, write: Callable[[np.ndarray, int], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.ppm"
    path.write_bytes(write(deepened(values, 10), 1023))
    with path.open("rb") as file:
        for each in (path, path.read_bytes(), file, Image.open(path)):
            assert np.array_equal(seen(each), three(values))
    loaded = Image.open(path)
    loaded.load()
    for each in (loaded, load_image(path)):
        assert np.array_equal(seen(each), three(values))
        if values.ndim == 3:
            assert "Pass the path or the bytes" in refusal(each, value_range=(0, 511))
    half = np.clip(np.rint(deepened(values, 10) * (255 / 511)), 0, 255)
    dark = np.rint(deepened(values, 10) * (255 / 65535))
    for choice, expected in (((0, 511), half), ("dtype", dark)):
        known = [path, path.read_bytes(), Image.open(path)] + [loaded] * (values.ndim == 2)
        for each in known:
            assert np.array_equal(seen(each, value_range=choice), three(expected))


@pytest.mark.parametrize(
    ("data", "expected_message"),
    [
        (b"P3 2 1 4095\n1 2 3 4 5", "not enough image data"),
        (b"P3 2 1 4095\n1 2 3 4 5 4096", "too large"),
        (b"P3 2 1 4095\n1 2 3 4 5 -6", "negative"),
        (b"P3 2 1 4095\n1 2 3 4 5 six", "invalid literal"),
    ],
)
def test_the_error_for_a_damaged_plain_ppm_says_what_is_wrong(
    data: bytes, expected_message: str
) -> None:
    assert expected_message in refusal(data)
    assert expected_message in refusal(data, value_range=(0, 1))
