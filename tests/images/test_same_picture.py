"""A picture gives the same input as a path, as bytes, as a file object and as a PIL image."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from tests.conftest import pixels, tiny_encoder
from tests.images.deep_images import plain_ppm, png, shallow_png, tiff

from headstrip import HeadstripError, ImageError, PreprocessingError
from headstrip.embed.output.loading import load_embeddings
from headstrip.embed.run import embed_source
from headstrip.images.decode import load_image

MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "AVIF": ["RGB", "RGBA"],
}
PICTURE = Image.fromarray(pixels(7, 11, 17))
ENCODER = tiny_encoder()
CASES = [(form, mode) for form, modes in MODES.items() for mode in modes]


def of_mode(mode: str) -> Image.Image:
    grey = np.asarray(PICTURE.convert("L"))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode in {"I", "F"}:
        return Image.fromarray(
            (grey.astype(np.int32) * 257).astype(np.int32 if mode == "I" else np.float32)
        )
    if mode == "P":
        return PICTURE.quantize(32)
    image = PICTURE.convert("L").convert(mode) if mode == "LA" else PICTURE.convert(mode)
    if mode in {"LA", "RGBA"}:
        image.putalpha(Image.fromarray(np.resize(np.arange(256, dtype=np.uint8), (11, 17))))
    return image


def encoded(form: str, mode: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options: dict[str, Any] = {"transparency": 3} if (form, mode) == ("PNG", "P") else {}
    if form == "TIFF":
        options = {"tiffinfo": {0x0112: orientation}}
    else:
        options["exif"] = exif
    of_mode(mode).save(file, form, **options)
    return file.getvalue()


def loaded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def written(data: bytes) -> io.BytesIO:
    """Return a file object positioned at its end, as after writing to it."""
    file = io.BytesIO()
    file.write(data)
    return file


def ways(data: bytes, path: Path) -> dict[str, Callable[[], Any]]:
    path.write_bytes(data)
    return {
        "path": lambda: path,
        "text": lambda: str(path),
        "bytes": lambda: data,
        "bytearray": lambda: bytearray(data),
        "memoryview": lambda: memoryview(data),
        "BytesIO": lambda: io.BytesIO(data),
        "written BytesIO": lambda: written(data),
        "lazy PIL image": lambda: Image.open(io.BytesIO(data)),
        "lazy PIL image of a path": lambda: Image.open(path),
        "loaded PIL image": lambda: loaded(data),
        "copied PIL image": lambda: loaded(data).copy(),
        "turned PIL image": lambda: ImageOps.exif_transpose(loaded(data)),
        "load_image": lambda: load_image(path),
        "load_image, copied": lambda: load_image(path).copy(),
    }


def outcome(image: Any) -> Any:
    """Return the pixels of an input, or the reason of its error without the image's name."""
    try:
        return ENCODER.preprocess(image)
    except HeadstripError as error:
        return str(error).partition("cannot be read: ")[2] or str(error)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, str) or isinstance(second, str):
        return bool(first == second)
    return torch.equal(first, second)


@given(st.sampled_from(CASES), st.integers(1, 8))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_type_of_image_gives_the_same_input_as_its_path(
    tmp_path: Path, case: tuple[str, str], orientation: int
) -> None:
    found = {
        way: outcome(make())
        for way, make in ways(encoded(*case, orientation), tmp_path / "a").items()
    }
    assert [way for way, each in found.items() if not same(each, found["path"])] == []
    assert isinstance(found["path"], str) == (case[1] == "F")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", MODES)
def test_every_orientation_is_made_upright(form: str, orientation: int, tmp_path: Path) -> None:
    data = encoded(form, "RGB", orientation)
    expected = ENCODER.preprocess(np.asarray(ImageOps.exif_transpose(loaded(data)).convert("RGB")))
    for way, make in ways(data, tmp_path / "a").items():
        assert torch.equal(ENCODER.preprocess(make()), expected), way


DEEP = {
    "PNG": png(np.asarray(PICTURE).astype(np.uint16) * 257),
    "PNG of 12 bits": png(np.asarray(PICTURE).astype(np.uint16) * 16),
    "PNG of 4 bits, one shade transparent": shallow_png(
        np.asarray(PICTURE)[..., 0] >> 4, 4, (b"tRNS", b"\0\x07")
    ),
    "PPM of digits": plain_ppm(np.asarray(PICTURE).astype(np.uint16) * 16, 4095),
    "signed TIFF": tiff((np.asarray(PICTURE)[..., 0] ^ 128).view(np.int8), photometric=1),
    "TIFF, white is zero": tiff(np.asarray(of_mode("I;16")), photometric=0),
    "TIFF that states its range": tiff(
        np.asarray(of_mode("I;16")) >> 4, photometric=1, tags=[(281, "H", [4095])]
    ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_give_the_same_input_as_their_path(kind: str, tmp_path: Path) -> None:
    found = {way: outcome(make()) for way, make in ways(DEEP[kind], tmp_path / "a").items()}
    # A copy has lost the reference to its file.
    without_file = {"copied PIL image", "turned PIL image", "load_image, copied"}
    skipped = without_file if kind != "PNG" else set()
    assert [way for way in found.keys() - skipped if not same(found[way], found["path"])] == []


def test_a_colour_profile_changes_nothing_for_any_type_of_image(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    PICTURE.save(file, "JPEG", icc_profile=profile)
    found = [outcome(make()) for make in ways(file.getvalue(), tmp_path / "a").values()]
    assert all(same(each, found[0]) for each in found)


def test_embed_and_embed_source_give_equal_embeddings_for_all_types(tmp_path: Path) -> None:
    data = encoded("JPEG", "RGB", 6)
    makers = list(ways(data, tmp_path / "a.jpg").values())
    embedded = ENCODER.embed([make() for make in makers])
    assert (embedded == embedded[0]).all()
    for number, make in enumerate(makers):
        embed_source(ENCODER, [make()], tmp_path / f"{number}.parquet")
        rows = load_embeddings(tmp_path / f"{number}.parquet")[1]
        assert np.allclose(rows, embedded[0], atol=1e-6)
    embed_source(ENCODER, tmp_path, tmp_path / "folder.parquet")
    assert np.allclose(load_embeddings(tmp_path / "folder.parquet")[1], embedded[0])


def test_an_open_file_is_read_from_its_start_and_keeps_its_position(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG", "RGB", 3))
    with path.open("rb") as file:
        file.seek(20)
        assert torch.equal(ENCODER.preprocess(file), ENCODER.preprocess(path))
        assert file.tell() == 20
    read, write = os.pipe()
    with open(write, "wb") as pipe:
        pipe.write(path.read_bytes())
    with open(read, "rb") as stream:
        assert torch.equal(ENCODER.preprocess(stream), ENCODER.preprocess(path))


def test_an_array_gives_the_same_input_as_its_image() -> None:
    array = np.asarray(PICTURE)
    assert torch.equal(ENCODER.preprocess(array), ENCODER.preprocess(PICTURE))


def test_inputs_that_are_not_images_give_specific_errors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    with (tmp_path / "a.txt").open() as text, pytest.raises(ImageError, match="opened as text"):
        ENCODER.preprocess(text)
    with pytest.raises(ImageError, match="none of the formats"):
        ENCODER.preprocess(b"no picture")
    for one in (b"", io.BytesIO(), bytearray()):
        with pytest.raises(ImageError, match="the file is empty"):
            ENCODER.preprocess(one)
        with pytest.raises(PreprocessingError, match="embed takes several images"):
            ENCODER.embed(one)
        with pytest.raises(HeadstripError, match="is one image"):
            embed_source(ENCODER, one, tmp_path / "x.parquet")


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    with pytest.raises(ImageError, match="at most 268435456 are read"):
        ENCODER.preprocess(Endless())


def test_value_range_and_background_apply_to_every_type_of_image(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    assert encoder.preprocessing is not None
    encoder.preprocessing = replace(
        encoder.preprocessing, value_range=(0, 4095), background="#123456"
    )
    data = DEEP["PNG of 12 bits"]
    makers = ways(data, tmp_path / "a.png")
    lazy = ["path", "bytes", "BytesIO", "lazy PIL image", "lazy PIL image of a path"]
    found = [encoder.preprocess(makers[way]()) for way in lazy]
    assert all(torch.equal(each, found[0]) for each in found)
