"""Which files are images, and how a table names them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstrip import HeadstripError
from headstrip.embed.files import check_out
from headstrip.embed.sources import is_image, original_path, source_of, stored_path


@pytest.mark.parametrize("name", ["b.JPG", "a/b/c.TiFf", "a.webp", ".jpg", "a.b.apng"])
def test_a_file_with_an_image_suffix_is_an_image(name: str) -> None:
    assert is_image(name)


@pytest.mark.parametrize("name", ["notes.txt", "jpg", "a.parquet", "a.jpg.bak", ""])
def test_a_file_with_another_suffix_is_not_an_image(name: str) -> None:
    assert not is_image(name)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "link").symlink_to("in")
    assert [item.path for item in source_of(tmp_path / "link").items()] == ["a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@given(st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & {0, 0x2F, 0x2E}))
def test_every_name_can_be_stored_as_text_and_read_back(name: bytes) -> None:
    stored = stored_path(os.fsdecode(name))
    assert stored.encode("utf-8").decode("utf-8") == stored
    assert os.fsencode(original_path(stored)) == name


def test_a_plain_name_is_stored_unchanged() -> None:
    assert stored_path("a/grün 猫.jpg") == "a/grün 猫.jpg"


def test_an_output_path_that_cannot_be_written_gives_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HeadstripError, match="there is no folder"):
        check_out(tmp_path / "none" / "out.parquet")
    with pytest.raises(HeadstripError, match="it is a folder"):
        check_out(tmp_path)
    with pytest.raises(HeadstripError, match="it is not a regular file"):
        check_out("/dev/null")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(HeadstripError, match="you may not create files in the folder"):
        check_out(tmp_path / "out.parquet")


def test_check_out_follows_a_link_to_its_target(tmp_path: Path) -> None:
    (tmp_path / "real.parquet").touch()
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    assert check_out(tmp_path / "link.parquet") == tmp_path / "real.parquet"
    assert check_out(tmp_path / "new.parquet") == tmp_path / "new.parquet"
