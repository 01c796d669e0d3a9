"""Reading one image file, and the errors for files that cannot be read."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from headstrip import ImageError
from headstrip.images.decode import FORMATS, load_image

Save = Callable[..., Path]


def png_of(width: int, height: int) -> bytes:
    """A PNG with a header that claims a size, and without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\0\0\0\0IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


def reason(path: Path | str) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_photo_has_the_pixels_that_pillow_reads(save: Save) -> None:
    path = save("photo.png")
    assert np.array_equal(np.asarray(load_image(path)), np.asarray(Image.open(path)))


def test_the_suffix_does_not_matter(save: Save) -> None:
    path = save("photo.png")
    assert load_image(path.rename(path.with_suffix(".jpg"))).format == "PNG"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_rotates_a_photo(save: Save, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save("photo.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(np.asarray(load_image(path)), np.asarray(upright))


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish that nobody reads", b"Exif\0\0MM\0*\xff"])
def test_unreadable_exif_data_rotates_nothing(save: Save, exif: bytes) -> None:
    assert load_image(save("photo.png", exif=exif)).size == (100, 80)


def test_the_error_says_that_a_file_is_truncated(save: Save) -> None:
    path = save("torn.jpg")
    path.write_bytes(path.read_bytes()[:-400])
    assert "truncated" in reason(path)


def test_the_error_for_a_text_file_named_jpg_lists_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    assert "it is in none of the formats that headstrip reads (AVIF, BMP, " in reason(path)


def test_the_error_says_that_a_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    assert reason(path) == "the file is empty."


def test_missing_files_folders_and_pipes_give_clear_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason(tmp_path / "none.jpg") == "No such file or directory."
    assert reason(tmp_path) == "it is not a regular file."
    assert reason(tmp_path / "pipe.jpg") == "it is not a regular file."
    assert reason(tmp_path / "loop.jpg") == "Too many levels of symbolic links."
    assert "null" in reason("a\0b.jpg")


def test_a_file_without_permission_gives_a_clear_error(save: Save) -> None:
    path = save("secret.png")
    path.chmod(0)
    script = (
        "import os, sys\n"
        "from headstrip.images.decode import ImageError, load_image\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: load_image(sys.argv[1])\n"
        "except ImageError as error: print(error)\n"
    )
    for folder in path.parents[:4]:
        # Other users may not open pytest's own folders.
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Permission denied.\n"


@pytest.mark.filterwarnings("default")
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    warned, refused = tmp_path / "warned.png", tmp_path / "refused.png"
    warned.write_bytes(png_of(12_000, 10_000))
    refused.write_bytes(png_of(60_000, 60_000))
    filters = list(warnings.filters)
    assert "exceeds limit of" in reason(warned)
    assert "exceeds limit of" in reason(refused)
    assert warnings.filters == filters


def test_a_format_that_needs_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    assert "EPS" not in FORMATS
    assert "none of the formats" in reason(path)


def test_loading_changes_no_global_setting_of_pillow(save: Save) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    load_image(save("photo.png"))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.bmp", "a.webp", "a.ppm"])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
@example(place=0.5, byte=0, cut=True)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_file_is_read_or_refused_with_an_image_error(
    save: Save, name: str, place: float, byte: int, cut: bool
) -> None:
    path = save(name)
    data = bytearray(path.read_bytes())
    index = int(place * len(data))
    data[index] = byte
    path.write_bytes(data[:index] if cut else data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outcome = f"{load_image(path).mode}."
        except ImageError as error:
            outcome = str(error)
    assert outcome.endswith(".")
