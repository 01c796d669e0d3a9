"""Lists of paths: text, CSV and Parquet."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embed.sources.made import contents, write_files, write_images

from headstrip import HeadstripError
from headstrip.embed.sources import source_of

FOUND = {"in/a.jpg": b"1", "b, c.jpg": b"2", "gone.jpg": "No such file or directory."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path, {"in/a.jpg": b"1", "b, c.jpg": b"2", "unlisted.jpg": b"3"})


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_text_file_has_a_path_a_line(folder: Path, start: str, newline: str) -> None:
    text = start + newline.join(["in/a.jpg", "", "b, c.jpg", "gone.jpg"])
    (folder / "list.txt").write_bytes(text.encode())
    assert contents(folder / "list.txt") == FOUND


def test_a_csv_has_its_paths_in_a_column(folder: Path) -> None:
    (folder / "list.csv").write_text('id,path\n1,./in/a.jpg\n2,"b, c.jpg"\n\n3,gone.jpg\n')
    assert contents(folder / "list.csv") == FOUND
    (folder / "list.csv").write_text('file,id\nin/a.jpg\n"b, c.jpg",2\ngone.jpg,3\n')
    assert contents(folder / "list.csv", column="file") == FOUND
    (folder / "list.tsv").write_text("id\tpath\n1\tin/a.jpg\n2\tb, c.jpg\n3\tgone.jpg\n")
    assert contents(folder / "list.tsv") == FOUND


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_a_parquet_file_without_images_has_its_paths_in_a_column(
    folder: Path, kind: pa.DataType
) -> None:
    table = pa.table({"n": [1, 2, 3], "path": pa.array(list(FOUND), kind)})
    pq.write_table(table, folder / "list.parquet")
    assert contents(folder / "list.parquet") == FOUND


def test_a_parquet_file_with_images_and_paths_is_a_list_when_its_column_is_named(
    folder: Path,
) -> None:
    table = pq.read_table(write_images(folder / "x.parquet", [b"9"]))
    pq.write_table(table.append_column("file", [["in/a.jpg"]]), folder / "x.parquet")
    assert contents(folder / "x.parquet") == {"x.parquet/000000000": b"9"}
    assert contents(folder / "x.parquet", column="file") == {"in/a.jpg": b"1"}


def test_absolute_paths_stay_what_they_are(folder: Path, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("lists") / "list.txt"
    other.write_text(f"{folder}/in/a.jpg\n")
    assert contents(other) == {f"{folder}/in/a.jpg": b"1"}


def test_a_path_that_no_file_can_have_is_a_row(folder: Path) -> None:
    (folder / "list.txt").write_bytes(b"a\0b.jpg\n")
    assert contents(folder / "list.txt") == {"a\0b.jpg": "embedded null byte."}


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@pytest.mark.parametrize("head", [b"", b"path\n"])
def test_a_path_need_not_be_utf8(tmp_path: Path, head: bytes) -> None:
    (tmp_path / os.fsdecode(b"\xff\\xfe.jpg")).write_bytes(b"1")
    place = tmp_path / ("list.csv" if head else "list.txt")
    place.write_bytes(head + b"\xff\\xfe.jpg\n")
    assert contents(place) == {r"\xff\x5cxfe.jpg": b"1"}


def test_a_path_that_stands_there_twice_is_listed_twice(folder: Path) -> None:
    (folder / "list.txt").write_text("in/a.jpg\nin/a.jpg\n")
    assert [item.path for item in source_of(folder / "list.txt").items()] == ["in/a.jpg"] * 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "id,file\n1,a.jpg\n", r"no column 'path'; its columns: 'id', 'file'\. Say which"),
        ("a.csv", "", "no column 'path'; its columns: none"),
        ("a.csv", "id,path\n1,a.jpg\n2,\n", "no path in column 'path' at line 3"),
        ("a.csv", "id,path\n1\n", "no path in column 'path' at line 2"),
        ("a.csv", f"path\n{'x' * 200_000}\n", r"a\.csv' cannot be read: field larger than"),
        ("a.txt", "x" * (1 << 20) + "y\n", "a line has more than 1048576 bytes"),
        ("a.parquet", "no parquet", r"a\.parquet' cannot be read"),
    ],
)
def test_a_list_that_cannot_be_read_is_told(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(HeadstripError, match=said):
        contents(tmp_path / name)


def test_a_parquet_list_without_its_column_or_a_path_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": ["a.jpg", None]}), tmp_path / "a.parquet")
    with pytest.raises(HeadstripError, match="no column 'path'; its columns: 'file'"):
        contents(tmp_path / "a.parquet")
    with pytest.raises(HeadstripError, match="no path in column 'file' at row 1"):
        contents(tmp_path / "a.parquet", column="file")


def test_several_lists_are_not_one(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.txt": b"", "b.txt": b""})
    with pytest.raises(HeadstripError, match=r"stands for 2 lists\. Name one file"):
        source_of(f"{tmp_path}/*.txt")
