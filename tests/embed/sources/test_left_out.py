"""Files without the suffix of an image are left out, and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.embed.sources.made import contents, write_files, write_tar

from headstrip import HeadstripError
from headstrip.embed.sources import LeftOut, items_of, sentence, source_of

FILES = {
    "a.jpg": b"1",
    "b.PNG": b"1",
    "c.ico": b"1",
    "d.ICO": b"1",
    "in/e.jxl": b"1",
    "in/f": b"1",
    "notes.txt": b"1",
    ".DS_Store": b"1",
    "g.dng": b"1",
    "x.backup of monday": b"1",
}
COUNTS = {"": 2, ".ico": 2, ".dng": 1, ".ds_store": 1, ".jxl": 1, ".txt": 1}


def left_out(what: Path | str) -> dict[str, int]:
    counted = LeftOut()
    assert list(items_of(source_of(what), counted.note))
    return counted.counts()


def test_folders_archives_and_patterns_count_the_files_that_they_leave_out(tmp_path: Path) -> None:
    write_files(tmp_path / "photos", FILES)
    assert left_out(tmp_path / "photos") == COUNTS
    assert left_out(write_tar(tmp_path / "x.tar", FILES)) == COUNTS
    assert left_out(f"{tmp_path}/photos/*") == {".ico": 2, "": 1, ".dng": 1, ".txt": 1}


def test_a_pattern_that_names_a_suffix_leaves_nothing_out(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    assert left_out(f"{tmp_path}/**/*.jpg") == {}
    assert left_out(f"{tmp_path}/**/*.{{jpg,png,PNG}}") == {}


def test_links_to_folders_that_are_not_followed_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, {"photos/in/a.jpg": b"1", "far/b.jpg": b"2"})
    for name in ("one", "in/two"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "far")
    found = {"links to folders": 2}
    assert left_out(tmp_path / "photos") == left_out(f"{tmp_path}/photos/**/*.jpg") == found
    assert left_out(f"{tmp_path}/photos/*/*.jpg") == {}
    followed = f"{tmp_path}/photos/{{**,one/**,in/two/**}}"
    assert left_out(followed) == {}
    assert sorted(contents(followed)) == ["in/a.jpg", "in/two/b.jpg", "one/b.jpg"]
    assert sentence(found) == (
        "2 links to folders were not followed. To follow one, name it in a pattern, such as "
        "'photos/{**,link/**}'."
    )


def test_the_error_for_a_folder_of_links_counts_the_links_not_followed(tmp_path: Path) -> None:
    write_files(tmp_path, {"far/b.jpg": b"2"})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one").symlink_to(tmp_path / "far")
    with pytest.raises(HeadstripError, match="1 link to a folder was not followed"):
        source_of(tmp_path / "photos")


def test_files_in_the_work_folder_of_a_run_are_not_counted(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"1", "o.parquet.parts/lock": b"", "o.parquet.parts/x/1": b""})
    assert left_out(tmp_path) == {}


def test_left_out_files_are_reported_if_they_may_be_images() -> None:
    assert sentence(COUNTS) == (
        "6 files were left out: 2 without a suffix, 2 .ico, 1 .dng, 1 .jxl. "
        "Images are known by their suffix."
    )
    assert sentence({".jxl": 1}) == (
        "1 file was left out: 1 .jxl. Images are known by their suffix."
    )
    assert sentence({".txt": 5, ".json": 3}) is None
    many = sentence({f".{number}": 1 for number in range(30)})
    assert many is not None
    assert "1 .7, and files of 22 more kinds." in many


def test_the_number_of_counted_suffixes_is_bounded() -> None:
    counted = LeftOut()
    for number in range(5000):
        counted.note(f"x.{number}")
    assert len(counted.counts()) <= 1001
    assert sum(counted.counts().values()) == 5000


def test_the_error_for_a_folder_without_images_counts_its_other_files(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jxl": b"1", "b.jxl": b"1"})
    with pytest.raises(HeadstripError, match=r"There is no image in .* 2 files were left out: 2 "):
        source_of(tmp_path)


def test_a_file_named_only_with_an_image_suffix_is_an_image(tmp_path: Path) -> None:
    write_files(tmp_path / "photos", {".jpg": b"1", "....PNG": b"2", "in/..jpg": b"3"})
    assert left_out(tmp_path / "photos") == {}
    write_tar(tmp_path / "x.tar", {".jpg": b"1", "....PNG": b"2"})
    assert left_out(tmp_path / "x.tar") == {}
