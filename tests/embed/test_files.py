"""Which files are images, and how a table names them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstrip import HeadstripError
from headstrip.embed.files import check_out, find_images, original_path, stored_path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_found_by_suffix_in_all_folders_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.TiFf", "a.webp", "a/notes.txt", "jpg", "a.parquet")
    assert find_images(tmp_path) == ["a.webp", "a/b/c.TiFf", "a/z.png", "b.JPG"]


def test_links_to_files_are_followed_and_loops_of_folders_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    (tmp_path / "in" / "again").symlink_to(tmp_path)
    (tmp_path / "in" / "b.png").symlink_to("a.png")
    (tmp_path / "in" / "broken.png").symlink_to("nothing.png")
    assert find_images(tmp_path) == ["in/a.png", "in/b.png", "in/broken.png"]


def test_a_link_may_stand_for_the_folder_itself(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    (tmp_path / "link").symlink_to("in")
    assert find_images(tmp_path / "link") == ["a.png"]


def test_a_folder_that_is_missing_or_has_no_image_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(HeadstripError, match="There is no folder"):
        find_images(tmp_path / "none")
    with pytest.raises(HeadstripError, match="There is no folder"):
        find_images(tmp_path / "notes.txt")
    with pytest.raises(HeadstripError, match=r"There is no image in .*\.jpeg"):
        find_images(tmp_path)


def test_a_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "in/a.png", "b.png")
    scandir = os.scandir

    # Root, who may run this, is refused nothing by permissions.
    def refusing(path: str) -> object:
        if str(path).endswith("in"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(HeadstripError, match=r"cannot be listed \(Permission denied\)"):
        find_images(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_not_utf8_is_found_and_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\\xfe.png")).write_bytes(b"here")
    stored = [stored_path(path) for path in find_images(tmp_path)]
    assert stored == ["\\xff\\x5cxfe.png"]
    assert (tmp_path / original_path(stored[0])).read_bytes() == b"here"


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@given(st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & {0, 0x2F, 0x2E}))
def test_every_name_can_be_stored_as_text_and_read_back(name: bytes) -> None:
    stored = stored_path(os.fsdecode(name))
    assert stored.encode("utf-8").decode("utf-8") == stored
    assert os.fsencode(original_path(stored)) == name


def test_a_plain_name_is_stored_as_it_is() -> None:
    assert stored_path("a/grün 猫.jpg") == "a/grün 猫.jpg"


def test_where_a_file_cannot_stand_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeadstripError, match="there is no folder"):
        check_out(tmp_path / "none" / "out.parquet")
    with pytest.raises(HeadstripError, match="it is a folder"):
        check_out(tmp_path)
    with pytest.raises(HeadstripError, match="it is not a regular file"):
        check_out("/dev/null")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(HeadstripError, match="takes no new files"):
        check_out(tmp_path / "out.parquet")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "real.parquet")
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    assert check_out(tmp_path / "link.parquet") == tmp_path / "real.parquet"
    assert check_out(tmp_path / "new.parquet") == tmp_path / "new.parquet"
