"""Lists of paths: text, CSV and Parquet."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
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
def test_a_text_file_lists_one_path_per_line(folder: Path, start: str, newline: str) -> None:
    text = start + newline.join(["in/a.jpg", "", "b, c.jpg", "gone.jpg"])
    (folder / "list.txt").write_bytes(text.encode())
    assert contents(folder / "list.txt") == FOUND


def test_a_csv_has_its_paths_in_a_column(folder: Path) -> None:
    (folder / "list.csv").write_text('id,path\n1,in/a.jpg\n2,"b, c.jpg"\n\n3,gone.jpg\n')
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


def test_a_parquet_file_with_images_is_read_as_a_list_if_column_is_given(
    folder: Path,
) -> None:
    table = pq.read_table(write_images(folder / "x.parquet", [b"9"]))
    pq.write_table(table.append_column("file", [["in/a.jpg"]]), folder / "x.parquet")
    assert contents(folder / "x.parquet") == {"x.parquet/000000000": b"9"}
    assert contents(folder / "x.parquet", column="file") == {"in/a.jpg": b"1"}


def test_absolute_paths_are_kept(folder: Path, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("lists") / "list.txt"
    other.write_text(f"{folder}/in/a.jpg\n")
    assert contents(other) == {f"{folder}/in/a.jpg": b"1"}


def test_a_path_that_no_file_can_have_becomes_a_bad_row(folder: Path) -> None:
    (folder / "list.txt").write_bytes(b"a\0b.jpg\n")
    assert contents(folder / "list.txt") == {
        "a\0b.jpg": "it contains a zero byte, and no file name can. Check the list."
    }


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@pytest.mark.parametrize("head", [b"", b"path\n"])
def test_a_path_need_not_be_utf8(tmp_path: Path, head: bytes) -> None:
    (tmp_path / os.fsdecode(b"\xff\\xfe.jpg")).write_bytes(b"1")
    place = tmp_path / ("list.csv" if head else "list.txt")
    place.write_bytes(head + b"\xff\\xfe.jpg\n")
    assert contents(place) == {r"\xff\x5cxfe.jpg": b"1"}


@pytest.mark.skipif(os.name == "nt", reason="there a backslash stands between folders")
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_a_row_that_looks_like_an_escaped_byte_keeps_its_text(tmp_path: Path, suffix: str) -> None:
    write_files(tmp_path, {"in/xe9t.jpg": b"1", r"\x41.jpg": b"2"})
    rows = {r"in\xe9t.jpg": b"1", r"\x41.jpg": b"2", r"\xfe": "No such file or directory."}
    place = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"path": list(rows)}), place)
    elif suffix == ".jsonl":
        place.write_text("\n".join(json.dumps({"path": row}) for row in rows))
    else:
        place.write_text("\n".join(["path"] * (suffix == ".csv") + list(rows)))
    assert contents(place) == rows


def test_lines_may_end_with_a_carriage_return(folder: Path) -> None:
    (folder / "list.txt").write_bytes(b"in/a.jpg\rb, c.jpg\r\rgone.jpg\r")
    assert contents(folder / "list.txt") == FOUND
    (folder / "list.csv").write_bytes(b'path\rin/a.jpg\r"b, c.jpg"\rgone.jpg\r')
    assert contents(folder / "list.csv") == FOUND


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['1,"in/a.jpg', "2,x.jpg", "3,y.jpg"], "row that starts in line 2 is not closed"),
        (["1,x.jpg", '2,"y.jpg', '3,"b, c.jpg"'], "row that starts in line 3 is not closed"),
        (["1,x.jpg", '2,"', *["3,y.jpg"] * 30_000], "row that starts in line 3 is not closed"),
        (["1,x.jpg", '2,"b" c.jpg'], "line 3 has text behind a closing quote"),
    ],
)
def test_a_misplaced_quote_is_reported_with_its_line(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["id,path", *rows]))
    with pytest.raises(HeadstripError, match=message):
        contents(tmp_path / "a.csv")


def test_a_cell_may_have_several_lines(folder: Path) -> None:
    (folder / "list.csv").write_bytes(b'path,text\r\nin/a.jpg,"one\r\ntwo ""x"""\r\n')
    assert contents(folder / "list.csv") == {"in/a.jpg": b"1"}


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("a.csv", "file,x,file\na.jpg,1,b.jpg\n", "in its header"),
        ("a.tsv", "file\tfile\na.jpg\tb.jpg\n", "in its header"),
        ("a.jsonl", '{"file": "a.jpg"}\n{"file": "a.jpg", "file": "b.jpg"}', "in line 2"),
    ],
)
def test_a_duplicate_column_is_refused(tmp_path: Path, name: str, text: str, where: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HeadstripError, match=f"has 'file' more than once {where}"):
        contents(tmp_path / name, column="file")


def test_a_duplicate_column_of_a_parquet_file_is_refused(tmp_path: Path) -> None:
    for cells in (["a.jpg"], [b"1"]):
        table = pa.table([cells, cells], names=["file", "file"])
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(HeadstripError, match="'file' more than once"):
            contents(tmp_path / "a.parquet", column="file")


def test_duplicates_of_other_json_keys_are_allowed(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"path": "in/a.jpg", "x": {"path": 1, "path": 2}, "x": 3}\n')
    assert contents(folder / "a.jsonl") == {"in/a.jpg": b"1"}


@pytest.mark.parametrize("name", ["l.lst", "list", "a.list"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_list_with_another_suffix_gets_an_error_with_the_suffixes(
    tmp_path: Path, name: str, encoding: str
) -> None:
    (tmp_path / name).write_text("grün.jpg\nb.jpg\n", encoding=encoding)
    with pytest.raises(HeadstripError, match=r"it is text.*\.txt .*\.csv, \.tsv, \.jsonl or"):
        source_of(tmp_path / name)


@pytest.mark.parametrize("content", [b"P3 1 1 255 1 2 3\n", b"\x89PNG\r\n\x1a\n\0", b""])
def test_an_image_may_have_any_suffix(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dat").write_bytes(content)
    assert list(contents(tmp_path / "a.dat").values()) == [content or "the file is empty."]


def test_a_repeated_path_is_listed_twice(folder: Path) -> None:
    (folder / "list.txt").write_text("in/a.jpg\nin/a.jpg\n")
    assert [item.path for item in source_of(folder / "list.txt").items()] == ["in/a.jpg"] * 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,file\n1,a.jpg\n", r"no column 'path'; its columns: 'id', 'file'\. Name"),
        ("a.csv", "", "no column 'path'; its columns: none"),
        ("a.csv", "id,path\n1,a.jpg\n2,\n", "no path in column 'path' at line 3"),
        ("a.csv", "id,path\n1\n", "no path in column 'path' at line 2"),
        ("a.csv", f"path\n{'x' * 200_000}\n", r"a\.csv' cannot be read: field larger than"),
        ("a.txt", "x" * (1 << 20) + "y\n", "a line has more than 1048576 characters"),
        ("a.parquet", "no parquet", r"a\.parquet' cannot be read"),
    ],
)
def test_a_list_that_cannot_be_read_is_reported(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(HeadstripError, match=message):
        contents(tmp_path / name)


def test_a_parquet_list_without_its_column_or_a_path_is_reported(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": ["a.jpg", None]}), tmp_path / "a.parquet")
    with pytest.raises(HeadstripError, match="no column 'path'; its columns: 'file'"):
        contents(tmp_path / "a.parquet")
    with pytest.raises(HeadstripError, match="no path in column 'file' at row 1"):
        contents(tmp_path / "a.parquet", column="file")


def test_a_pattern_for_several_lists_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.txt": b"", "b.txt": b""})
    with pytest.raises(HeadstripError, match=r"stands for 2 lists\. Pass one file"):
        source_of(f"{tmp_path}/*.txt")


def test_a_row_keeps_the_text_of_the_list(folder: Path) -> None:
    rows = ["in/a.jpg", "./in/a.jpg", "in//a.jpg", "in/../in/a.jpg", f"{folder}/./in/a.jpg"]
    (folder / "list.txt").write_text("\n".join(rows))
    assert [item.path for item in source_of(folder / "list.txt").items()] == rows
    assert contents(folder / "list.txt") == dict.fromkeys(rows, b"1")


@pytest.mark.skipif(os.name == "nt", reason="there a backslash stands between folders")
def test_backslashes_are_read_as_slashes_unless_a_file_has_that_name(folder: Path) -> None:
    (folder / "list.txt").write_text("in\\a.jpg\r\n.\\in\\a.jpg\r\nC:\\in\\a.jpg\r\n")
    assert contents(folder / "list.txt") == {
        "in\\a.jpg": b"1",
        ".\\in\\a.jpg": b"1",
        "C:\\in\\a.jpg": "it is a Windows path, and no such file exists. Write paths that are "
        "relative to the list.",
    }
    (folder / "in\\a.jpg").write_bytes(b"another")
    assert contents(folder / "list.txt")["in\\a.jpg"] == b"another"


@pytest.mark.parametrize(("stored", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accented_names_are_found_in_either_unicode_form(
    tmp_path: Path, stored: str, written: str
) -> None:
    there, row = (unicodedata.normalize(form, "été/café.jpg") for form in (stored, written))
    write_files(tmp_path, {there: b"1", "list.txt": f"{row}\n".encode()})
    assert list(contents(tmp_path / "list.txt").items()) == [(row, b"1")]
    assert contents(tmp_path / row) == {unicodedata.normalize(stored, "café.jpg"): b"1"}


def test_two_files_that_differ_only_in_unicode_form_stay_apart(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    write_files(tmp_path, {composed: b"1", apart: b"2"})
    (tmp_path / "list.txt").write_text(f"{apart}\n{composed}\n", encoding="utf-8")
    assert contents(tmp_path / "list.txt") == {apart: b"2", composed: b"1"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_lists_are_read_in_each_encoding_of_unicode(
    tmp_path: Path, encoding: str, suffix: str
) -> None:
    write_files(tmp_path, {"grün.jpg": b"1", "写真.jpg": b"2"})
    head = "path\r\n" if suffix == ".csv" else ""
    (tmp_path / f"list{suffix}").write_bytes(f"{head}grün.jpg\r\n写真.jpg\r\n".encode(encoding))
    assert contents(tmp_path / f"list{suffix}") == {"grün.jpg": b"1", "写真.jpg": b"2"}


def test_a_latin_1_list_gives_an_encoding_hint_only_for_the_rows_it_affects(tmp_path: Path) -> None:
    write_files(tmp_path, {"grün.jpg": b"1", "a.jpg": b"2"})
    (tmp_path / "list.txt").write_bytes("grün.jpg\na.jpg\n".encode("latin-1"))
    assert contents(tmp_path / "list.txt") == {
        r"gr\xfcn.jpg": "no file has this name, and the list is not in UTF-8. Save the list in "
        "UTF-8, such as with `iconv -f LATIN1 -t UTF-8`.",
        "a.jpg": b"2",
    }


def test_a_list_that_ends_within_a_character_is_reported(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("a.jpg\n".encode("utf-16")[:-1])
    with pytest.raises(HeadstripError, match=r"list\.txt' cannot be read: .*truncated data"):
        contents(tmp_path / "list.txt")


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL"])
def test_json_lines_have_their_paths_under_a_key(folder: Path, suffix: str) -> None:
    rows = [{"path": name, "label": 1} for name in FOUND]
    text = "\n\n".join(json.dumps(row) for row in rows)
    (folder / f"list{suffix}").write_text(text)
    assert contents(folder / f"list{suffix}") == FOUND
    (folder / f"list{suffix}").write_text('{"file_name": "in/a.jpg"}\n')
    assert contents(folder / f"list{suffix}", column="file_name") == {"in/a.jpg": b"1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file": "a.jpg"}', r"no column 'path'; its columns: 'file'"),
        ('{"path": "a.jpg"}\n{"path": ""}', "no path in column 'path' at line 2"),
        ('{"path": "a.jpg"}\n{"file": "a.jpg"}', "no path in column 'path' at line 2"),
        ('{"path": 3}', "has 3 at line 1, and paths are text"),
        ("[1]", "line 1 is not a JSON object"),
        ("{", "line 1 is not a JSON object"),
        ("[" * 200_000, "line 1 is not a JSON object"),
    ],
)
def test_json_lines_without_valid_paths_are_reported(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(HeadstripError, match=message):
        contents(tmp_path / "a.jsonl")


def test_a_lone_surrogate_in_json_becomes_a_row_for_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"path": "\\ud800.jpg"}\n')
    assert list(contents(tmp_path / "a.jsonl").values()) == ["No such file or directory."]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.json", "Write one object per line, and name the file .jsonl"),
        ("a.xlsx", "Save the sheet with the paths as .csv in UTF-8"),
        ("a.XLS", "Save the sheet with the paths as .csv in UTF-8"),
        ("a.ods", "Save the sheet with the paths as .csv in UTF-8"),
        ("a.feather", "Write its paths to a .parquet, .csv or .jsonl"),
        ("a.zip", "Unpack it, and pass the folder"),
    ],
)
def test_unsupported_list_formats_are_refused_with_a_remedy(
    tmp_path: Path, name: str, remedy: str
) -> None:
    write_files(tmp_path, {name: b"PK"})
    with pytest.raises(HeadstripError, match=re.escape(remedy)):
        source_of(tmp_path / name)
