"""Iterables of images from a program, read one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.embed.sources.made import write_files

from headstrip import HeadstripError
from headstrip.embed.sources import Source, StreamSource, source_of


def stream(images: object) -> StreamSource:
    source = source_of(images)  # type: ignore[arg-type]
    assert isinstance(source, StreamSource)
    assert isinstance(source, Source)
    return source


def test_paths_keep_their_names_and_other_images_are_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_files(tmp_path, {"in/a.jpg": b"1"}))
    array, image = np.zeros((2, 2, 3), np.uint8), Image.new("L", (2, 2))
    source = stream(["in/a.jpg", array, Path("in/a.jpg"), image, bytearray(b"22"), b"3"])
    pairs = list(source.pairs())
    assert [item.path for item, _ in pairs] == [
        "in/a.jpg",
        "000000002",
        "in/a.jpg",
        "000000004",
        "000000005",
        "000000006",
    ]
    assert [each for _, each in pairs] == [None, array, None, image, b"22", b"3"]
    assert source.reader().read(pairs[0][0]) == b"1"
    assert [item.size for item, _ in pairs] == [1, 0, 1, 0, 2, 1]


def test_images_are_requested_one_by_one(tmp_path: Path) -> None:
    asked = []

    def images() -> Iterator[bytes]:
        for number in range(1, 10**9):
            asked.append(number)
            yield b"%d" % number

    source = stream(images())
    assert source.describe() == {"kind": "stream", "where": "images of a generator"}
    assert not asked
    items = source.items()
    assert [next(items).path, next(items).path] == ["000000001", "000000002"]
    assert asked == [1, 2]


@pytest.mark.parametrize("image", [b"1", np.zeros((2, 2, 3), np.uint8), Image.new("L", (1, 1))])
def test_one_image_is_refused_as_an_iterable(image: object) -> None:
    with pytest.raises(HeadstripError, match=r"is one image .* Put it in a list\."):
        source_of(image)  # type: ignore[arg-type]


def test_a_batch_of_arrays_is_a_stream_of_its_images() -> None:
    assert len(list(stream(np.zeros((3, 2, 2, 3), np.uint8)).pairs())) == 3


def test_an_item_that_is_not_an_image_is_reported_with_its_number() -> None:
    with pytest.raises(HeadstripError, match="Image 2 of the iterable is a NoneType"):
        list(stream([b"1", None]).items())
    with pytest.raises(HeadstripError, match="The source is an int, which holds no images"):
        source_of(3)  # type: ignore[arg-type]
