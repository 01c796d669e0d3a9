"""Transparent pixels show the background, and opaque pixels do not change."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import tiny_encoder
from tests.images.deep_images import png, shallow_png

from headstrip import EmbedSettings, HeadstripError, Preprocessing, PreprocessingError
from headstrip.embed.run import embed_source
from headstrip.images.decode import load_image
from headstrip.images.inputs import to_picture

STEPS = Preprocessing(crop=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
GREY_STEPS = replace(STEPS, mean=(0.5,), std=(0.5,))
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 7, 3), np.uint8)
ALPHA = np.random.default_rng(4).integers(0, 256, (6, 7), np.uint8)
ALPHA[0, :3] = 0, 128, 255
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "#ff8000": (255, 128, 0)}


def seen(image: Any, background: str = "white", steps: Preprocessing = STEPS) -> np.ndarray:
    return np.asarray(to_picture(image, replace(steps, background=background)))


def over(colour: tuple[int, int, int], pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return pixels * share + np.array(colour) * (1 - share)


def with_alpha(mode: str, alpha: np.ndarray = ALPHA) -> tuple[Image.Image, np.ndarray]:
    """Return an image of a mode with the given alpha, and its colours without alpha."""
    colours = Image.fromarray(PIXELS)
    if mode in {"LA", "La"}:
        colours = colours.convert("L")
    if mode == "PA":
        image = colours.quantize(32).convert("PA")
    else:
        image = colours.convert({"RGBa": "RGBA", "La": "LA"}.get(mode, mode))
    image.putalpha(Image.fromarray(alpha))
    below = np.asarray(image.convert("RGB"))
    return (image if image.mode == mode else image.convert(mode)), below


@pytest.mark.parametrize("background", COLOURS)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_alpha_blends_the_background_in_proportion(mode: str, background: str) -> None:
    image, below = with_alpha(mode)
    found = seen(image, background).astype(float)
    # A premultiplied colour loses bits if it is almost transparent.
    tolerance = 3 if mode in {"RGBa", "La"} else 1
    assert np.abs(found - over(COLOURS[background], below, ALPHA)).max() <= tolerance
    assert (found[0, 0] == COLOURS[background]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_opaque_alpha_gives_the_pixels_without_it(mode: str) -> None:
    image, below = with_alpha(mode, np.full((6, 7), 255, np.uint8))
    for background in (*COLOURS, "keep"):
        assert np.array_equal(seen(image, background), below)


def test_the_background_keep_uses_the_colours_and_ignores_alpha() -> None:
    image, below = with_alpha("RGBA")
    assert np.array_equal(seen(image, "keep"), below)


def stored(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


GREY = Image.fromarray(PIXELS[..., 0])
PALETTE = Image.fromarray(PIXELS).quantize(16)
DEEP = PIXELS.astype(np.uint16) * 257
COUNT = np.arange(42).reshape(6, 7)
HIDDEN: dict[str, Callable[[], bytes]] = {
    "palette, one colour": lambda: stored(PALETTE, transparency=PALETTE.getpixel((0, 0))),
    "palette, alpha for each": lambda: stored(
        PALETTE,
        transparency=bytes(0 if index == PALETTE.getpixel((0, 0)) else 255 for index in range(16)),
    ),
    "GIF": lambda: stored(PALETTE, "GIF", transparency=PALETTE.getpixel((0, 0))),
    "grey, one shade": lambda: stored(GREY, transparency=GREY.getpixel((0, 0))),
    "colour, one of them": lambda: stored(
        Image.fromarray(PIXELS), transparency=tuple(map(int, PIXELS[0, 0]))
    ),
    "1 bit": lambda: stored(Image.fromarray(np.arange(42).reshape(6, 7) == 0), transparency=1),
    "2-bit grey, one shade": lambda: shallow_png((COUNT + 2) % 4, 2, (b"tRNS", b"\0\2")),
    "4-bit grey, one shade": lambda: shallow_png((COUNT + 9) % 16, 4, (b"tRNS", b"\0\x09")),
    "4-bit grey, one shade with more bits": lambda: shallow_png(
        (COUNT + 9) % 16, 4, (b"tRNS", b"\xff\xf9")
    ),
    "16-bit grey, one shade": lambda: png(
        DEEP[..., 0], (b"tRNS", struct.pack(">H", DEEP[0, 0, 0]))
    ),
    "16-bit colour, one of them": lambda: png(DEEP, (b"tRNS", struct.pack(">3H", *DEEP[0, 0]))),
    "16-bit alpha": lambda: png(
        np.dstack(
            [DEEP, np.full((6, 7), 65535, np.uint16) * (np.arange(42).reshape(6, 7) > 0)]
        ).astype(np.uint16)
    ),
    "16-bit grey with alpha": lambda: png(
        np.dstack(
            [DEEP[..., 0], np.full((6, 7), 65535, np.uint16) * (np.arange(42).reshape(6, 7) > 0)]
        ).astype(np.uint16)
    ),
    "WebP": lambda: stored(_first_clear(), "WEBP", lossless=True, exact=True),
    "TIFF": lambda: stored(_first_clear(), "TIFF"),
    "AVIF": lambda: stored(_first_clear(), "AVIF", quality=100),
}
"""Files with a transparent first pixel and an opaque last pixel."""


def _first_clear() -> Image.Image:
    alpha = np.full((6, 7), 255, np.uint8)
    alpha[0, 0] = 0
    return with_alpha("RGBA", alpha)[0]


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        *((kind, STEPS) for kind in HIDDEN),
        *((kind, GREY_STEPS) for kind in HIDDEN if "grey" in kind or kind == "1 bit"),
    ],
)
def test_every_way_to_be_transparent_shows_the_background(kind: str, steps: Preprocessing) -> None:
    data = HIDDEN[kind]()
    lazy, loaded = (Image.open(io.BytesIO(data)) for _ in range(2))
    loaded.load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for background, shade in (("white", 255), ("black", 0)):
            found = seen(data, background, steps)
            assert (found[0, 0] == shade).all()
            assert np.array_equal(found[-1, -1], seen(data, "keep", steps)[-1, -1])
        for image in (lazy, loaded):
            assert np.array_equal(seen(image, "black", steps), seen(data, "black", steps))


def test_a_coloured_background_becomes_grey_for_one_channel() -> None:
    found = seen(with_alpha("LA")[0], "#ff8000", GREY_STEPS)
    assert found[0, 0] == Image.new("RGB", (1, 1), "#ff8000").convert("L").getpixel((0, 0))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_each_shade_of_few_bits_can_be_the_transparent_one(bits: int, tmp_path: Path) -> None:
    shades = np.arange(1 << bits)[None]
    path = tmp_path / "a.png"
    for key in shades[0]:
        path.write_bytes(shallow_png(shades, bits, (b"tRNS", bytes([0, key]))))
        expected = np.where(shades == key, 7, shades * (255 // shades.max()))
        turned = Image.open(path)
        turned.getexif()[0x0112] = 2
        turned.load()
        for image in (path, Image.open(path), load_image(path)):
            assert np.array_equal(seen(image, "#070707")[..., 0], expected)
        assert np.array_equal(seen(turned, "#070707")[:, ::-1, 0], expected)


@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from(sorted(COLOURS)))
@settings(max_examples=60, deadline=None)
def test_a_blended_pixel_is_between_its_colour_and_the_background(
    value: int, alpha: int, background: str
) -> None:
    found = seen(Image.new("RGBA", (2, 2), (value, value, value, alpha)), background)
    for channel, behind in enumerate(COLOURS[background]):
        exact = (value * alpha + behind * (255 - alpha)) / 255
        assert abs(int(found[0, 0, channel]) - exact) <= 1


def test_background_names_are_normalised_and_others_are_refused() -> None:
    assert replace(STEPS, background="#FFFFFF") == STEPS
    assert replace(STEPS, background="#00Ff00").background == "#00ff00"
    for wrong in ("red", "#fff", "", "White", None, 0, "#00ff0g"):
        with pytest.raises(PreprocessingError, match="is not a colour"):
            replace(STEPS, background=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("decode_mode", ["exact", "fast"])
def test_a_run_uses_the_background_and_refuses_rows_of_another(
    tmp_path: Path, decode_mode: str
) -> None:
    from headstrip.embed.output.loading import load_embeddings

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "clear.png").write_bytes(stored(Image.new("RGBA", (9, 9), (9, 9, 9, 0))))
    Image.new("RGB", (9, 9), "white").save(tmp_path / "in" / "white.png")
    encoder, out, settings = (
        tiny_encoder(),
        tmp_path / "out.parquet",
        EmbedSettings(decode_mode=decode_mode),
    )
    embed_source(encoder, tmp_path / "in", out, settings=settings)
    found = load_embeddings(out)[1]
    assert np.array_equal(found[0], found[1])
    before = encoder.fingerprint.identity
    assert encoder.preprocessing is not None
    encoder.preprocessing = replace(encoder.preprocessing, background="black")
    assert encoder.fingerprint.identity != before
    with pytest.raises(HeadstripError, match='"background": "black"'):
        embed_source(encoder, tmp_path / "in", out, settings=settings)
