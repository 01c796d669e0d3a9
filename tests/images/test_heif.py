"""HEIC files: headstrip reads them if pillow-heif is installed, and else says what to install."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import MEAN, STD, pixels
from tests.distributions import run_python

from headstrip import ImageError, Preprocessing
from headstrip.embed.decoding.pool import DecodePool
from headstrip.embed.sources import source_of
from headstrip.images.decode import decode_bytes, load_image

pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif writes the files")

STEPS = Preprocessing(crop=(64, 64), resize=72, mean=MEAN, std=STD)


def heic(image: Image.Image, **options: object) -> bytes:
    with io.BytesIO() as file:
        pillow_heif.from_pillow(image).save(file, quality=95, **options)
        return file.getvalue()


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(pixels(1, 96, 128))


def test_a_heic_file_has_the_pixels_of_its_image(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "IMG_0001.HEIC").write_bytes(heic(photo))
    image = load_image(tmp_path / "IMG_0001.HEIC")
    assert (image.mode, image.size) == ("RGB", (128, 96))
    assert np.abs(np.asarray(image, int) - np.asarray(photo, int)).mean() < 3


def test_the_orientation_of_a_heic_file_is_applied_once(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    # Pillow's plugin writes the file; it is not registered in this process.
    program = (
        "import pillow_heif; from PIL import Image; pillow_heif.register_heif_opener()\n"
        "exif = Image.Exif(); exif[0x0112] = 6\n"
        "Image.open('a.png').save('a.heic', exif=exif.tobytes(), quality=95)\n"
    )
    ran = run_python("-c", f"import os; os.chdir({str(tmp_path)!r})\n{program}")
    assert ran.returncode == 0, ran.stderr
    image = load_image(tmp_path / "a.heic")
    upright = photo.transpose(Image.Transpose.ROTATE_270)
    assert image.size == upright.size == (96, 128)
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).mean() < 3


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_worker_processes_decode_heic_beside_other_images(
    tmp_path: Path, photo: Image.Image, mode: str
) -> None:
    whole = heic(photo)
    photo.save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(whole)
    (tmp_path / "c.hif").write_bytes(whole[: len(whole) // 2])
    source = source_of(tmp_path)
    items = sorted(source.items())
    assert [item.path for item in items] == ["a.png", "b.heic", "c.hif"]
    pool = DecodePool(source.reader(), STEPS, batch_size=3, workers=1, slots=2, mode=mode)
    with pool:
        found = pool.submit(items).result()
        assert [image.width for image in found.images] == [128, 128, None]
        assert [image.error is None for image in found.images] == [True, True, False]
        near = np.abs(found.pixels[0].astype(int) - found.pixels[1].astype(int)).mean()
        assert near < 3


@pytest.mark.parametrize("keep", [16, 40, 200])
def test_a_truncated_heic_file_is_refused(photo: Image.Image, keep: int) -> None:
    with pytest.raises(ImageError):
        decode_bytes(heic(photo)[:keep])


def test_an_image_of_too_many_pixels_is_refused(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128 * 96 - 1)
    with pytest.raises(ImageError, match=r"^Image size \(12288 pixels\) exceeds limit of 12287"):
        decode_bytes(heic(photo))


def test_reading_heic_registers_no_format_with_pillow(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "a.heic").write_bytes(heic(photo))
    # In a new process: imageio, which other tests import, adds HEIF to Pillow's formats.
    program = (
        "from PIL import Image\nfrom headstrip.images.decode import load_image\n"
        f"load_image({str(tmp_path / 'a.heic')!r})\nImage.init()\nprint('HEIF' in Image.OPEN)\n"
    )
    assert run_python("-c", program).stdout == "False\n"


def test_pillow_decodes_avif_even_with_another_first_brand(photo: Image.Image) -> None:
    with io.BytesIO() as file:
        photo.save(file, "AVIF")
        content = file.getvalue()
    assert b"avif" in content[16:40]
    assert decode_bytes(content[:8] + b"mif1" + content[12:]).size == photo.size


def test_without_pillow_heif_the_messages_say_what_to_install(
    tmp_path: Path, photo: Image.Image
) -> None:
    (tmp_path / "a.heic").write_bytes(heic(photo))
    photo.save(tmp_path / "b.png")
    program = (
        "import json, sys; sys.modules['pillow_heif'] = None\n"
        "from headstrip.images.decode import load_image\n"
        "from headstrip.embed.sources import LeftOut, items_of, sentence, source_of\n"
        "left = LeftOut()\n"
        f"items = [item.path for item in items_of(source_of({str(tmp_path)!r}), left.note)]\n"
        "try:\n"
        f"    load_image({str(tmp_path / 'a.heic')!r})\n"
        "except Exception as error:\n"
        "    print(json.dumps([items, sentence(left.counts()), str(error)]))\n"
    )
    ran = run_python("-c", program)
    items, counted, named = json.loads(ran.stdout)
    assert items == ["b.png"]
    assert counted.startswith("1 file was left out: 1 .heic. ")
    assert counted.endswith("Run pip install 'headstrip[heif]' to read .heic and .heif.")
    assert named.endswith("is not installed. Run pip install 'headstrip[heif]'.")
