"""Folders and patterns: each image is listed once, under any name, and nothing outside."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.distributions import run_python
from tests.embed.sources.made import contents, write_files, write_tar

from headstrip import HeadstripError
from headstrip.embed.sources import Item, Source, original_path, source_of, stored_path
from headstrip.embed.sources.patterns import expand_braces
from headstrip.images.size_limit import MAX_BYTES

TREE = {
    "a.jpg": b"1",
    "in/b.PNG": b"2",
    "in/deep/c.jpg": b"3",
    ".hidden/d.jpg": b"4",
    "in/.e.jpg": b"5",
    "notes.txt": b"6",
    "in/jpg": b"7",
}
NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(name) & {0, 0x2F} and name not in (b".", b"..")
)


def test_a_folder_source_includes_subfolders_and_hidden_images(tmp_path: Path) -> None:
    assert contents(write_files(tmp_path, TREE)) == {
        "a.jpg": b"1",
        "in/b.PNG": b"2",
        "in/deep/c.jpg": b"3",
        ".hidden/d.jpg": b"4",
        "in/.e.jpg": b"5",
    }


def test_an_item_has_the_size_and_the_time_of_its_file(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"123"})
    os.utime(tmp_path / "a.jpg", ns=(5, 1_234_567_890_123_456_789))
    assert list(source_of(tmp_path).items()) == [Item("a.jpg", 3, 1_234_567_890_123_456_789, "", 0)]


def test_describe_returns_the_kind_and_place_of_a_source(tmp_path: Path) -> None:
    source = source_of(write_files(tmp_path, TREE))
    assert isinstance(source, Source)
    assert source.describe() == {"kind": "files", "where": stored_path(str(tmp_path))}


def test_a_reader_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, TREE)
    monkeypatch.chdir(tmp_path)
    source = source_of("in")
    monkeypatch.chdir("/")
    assert contents(source)["deep/c.jpg"] == b"3"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["a.jpg"]),
        ("*", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "in/deep/c.jpg"]),
        ("**", ["a.jpg", "in/b.PNG", "in/deep/c.jpg"]),
        ("in/*", ["b.PNG"]),
        ("in/**/*.jpg", ["deep/c.jpg"]),
        ("*/*.PNG", ["in/b.PNG"]),
        ("**/deep/?.jpg", ["in/deep/c.jpg"]),
        ("*/.e.*", ["in/.e.jpg"]),
        (".h*/*", [".hidden/d.jpg"]),
        ("in/{deep/*.jpg,*.PNG}", ["b.PNG", "deep/c.jpg"]),
        ("{*.jpg,**/[ab].*}", ["a.jpg", "in/b.PNG"]),
        ("*.txt*", []),
    ],
)
def test_a_pattern_matches_the_images_that_a_shell_would_match(
    tmp_path: Path, pattern: str, found: list[str]
) -> None:
    write_files(tmp_path, TREE)
    if found:
        assert sorted(contents(f"{tmp_path}/{pattern}")) == found
    else:
        with pytest.raises(HeadstripError, match="There is no image in"):
            source_of(f"{tmp_path}/{pattern}")


def test_a_pattern_that_ends_in_a_suffix_takes_all_files_with_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.dat": b"1", "b.jpg": b"2"})
    assert contents(f"{tmp_path}/*.dat") == {"a.dat": b"1"}


def test_one_image_or_a_brace_range_of_images_is_a_source(tmp_path: Path) -> None:
    write_files(tmp_path, {"a08.jpg": b"8", "a09.jpg": b"9", "a10.jpg": b"10"})
    assert contents(tmp_path / "a09.jpg") == {"a09.jpg": b"9"}
    assert contents(f"{tmp_path}/a{{08..10}}.jpg") == {
        "a08.jpg": b"8",
        "a09.jpg": b"9",
        "a10.jpg": b"10",
    }
    with pytest.raises(HeadstripError, match=r"There is no file '.*a11\.jpg'"):
        source_of(f"{tmp_path}/a{{08..11}}.jpg")


def test_the_name_of_an_existing_file_is_not_taken_for_a_pattern(tmp_path: Path) -> None:
    write_files(tmp_path, {"[1].jpg": b"1", "1.jpg": b"2"})
    assert contents(tmp_path / "[1].jpg") == {"[1].jpg": b"1"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a{0..2}", ["a0", "a1", "a2"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{02..00}", ["02", "01", "00"]),
        ("{a,}.{1..2}", ["a.1", "a.2", ".1", ".2"]),
        ("{a}-{}", ["{a}-{}"]),
    ],
)
def test_braces_are_expanded(text: str, names: list[str]) -> None:
    assert expand_braces(text) == names


def test_braces_that_expand_to_too_many_or_mixed_names_are_refused() -> None:
    with pytest.raises(HeadstripError, match="more than 100000 names"):
        expand_braces("{0..999}-{0..100}")
    with pytest.raises(HeadstripError, match="more than 100000 names"):
        source_of("{0..999999999999999999}.tar")
    with pytest.raises(HeadstripError, match="more than 1000 patterns"):
        source_of("{0..1000}/*.jpg")
    with pytest.raises(HeadstripError, match="Pass one kind"):
        source_of("{a,*}.jpg")


def test_links_to_folders_are_not_followed_and_link_loops_become_bad_rows(tmp_path: Path) -> None:
    write_files(tmp_path, {"in/a.jpg": b"1", "elsewhere/b.jpg": b"2"})
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "folder.jpg").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "there.jpg").symlink_to("../elsewhere/b.jpg")
    (tmp_path / "in" / "gone.jpg").symlink_to("nothing")
    (tmp_path / "in" / "one.jpg").symlink_to("two.jpg")
    (tmp_path / "in" / "two.jpg").symlink_to("one.jpg")
    loop = "Too many levels of symbolic links."
    found = {
        "a.jpg": b"1",
        "there.jpg": b"2",
        "gone.jpg": "No such file or directory.",
        "one.jpg": loop,
        "two.jpg": loop,
    }
    assert contents(tmp_path / "in") == contents(f"{tmp_path}/in/**/*.jpg") == found


def test_a_link_to_a_folder_that_a_pattern_names_is_entered_once(tmp_path: Path) -> None:
    write_files(tmp_path, {"in/a.jpg": b"1"})
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    assert sorted(contents(f"{tmp_path}/*/up/*/*.jpg")) == ["in/up/in/a.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_empty_huge_and_special_files_become_rows_with_a_reason(tmp_path: Path) -> None:
    write_files(tmp_path, {"empty.jpg": b"", "folder.jpg/a.jpg": b"1"})
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert contents(tmp_path) == {
        "empty.jpg": "the file is empty.",
        "folder.jpg/a.jpg": b"1",
        "pipe.jpg": "it is not a regular file.",
        "huge.jpg": "it has 268435457 bytes, and at most 268435456 are read.",
    }


def test_reading_a_file_that_disappeared_gives_the_reason(tmp_path: Path) -> None:
    source = source_of(write_files(tmp_path, {"a.jpg": b"1"}))
    (item,) = source.items()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(RuntimeError, match=r"^No such file or directory\.$"):
        source.reader().read(item)


def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(write_files(tmp_path, {"in/a.jpg": b"1"}))
    scandir = os.scandir

    # The tests may run as root, and permissions do not stop root.
    def refusing(path: str) -> object:
        if str(path).endswith("in"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(HeadstripError, match=r"in' cannot be listed \(Permission denied\)"):
        list(source.items())


def test_a_listing_that_breaks_off_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(write_files(tmp_path, {"a.jpg": b"1"}))
    scandir = os.scandir

    class Breaking:
        def __init__(self, path: str) -> None:
            self.entries = scandir(path)

        def __enter__(self) -> Breaking:
            return self

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self) -> Breaking:
            return self

        def __next__(self) -> object:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", Breaking)
    with pytest.raises(HeadstripError, match=rf"{tmp_path}.* \(Input/output error\)"):
        list(source.items())


def test_a_missing_file_and_a_folder_without_images_are_reported(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"There is no file '.*none'\. Check the path\."):
        source_of(tmp_path / "none")
    with pytest.raises(HeadstripError, match=r"There is no image in .*, no \.tar and"):
        source_of(tmp_path)


@pytest.mark.parametrize("names", [("a.jpg", "b.tar"), ("b.jpg", "a.tar"), ("x/a.tar.gz", "b.jpg")])
def test_images_beside_archives_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    write_files(tmp_path, {name: bytes(1024 * name.endswith(".tar")) for name in names})
    with pytest.raises(HeadstripError, match="single images and files that hold many"):
        contents(tmp_path)
    write_tar(tmp_path / "c.tar", {"z.jpg": b"1"})
    assert contents(f"{tmp_path}/c*.tar") == {"c.tar/z.jpg": b"1"}


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=6))
def test_files_with_any_names_are_each_listed_once_and_read(
    paths: list[list[bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = {}
        for number, parts in enumerate(paths):
            path = b"/".join([*(part + b"_" for part in parts[:-1]), parts[-1] + b".jpg"])
            full = os.path.join(os.fsencode(folder), path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as file:
                file.write(b"%d" % number)
            written[path] = b"%d" % number
        found = contents(folder)
        assert {os.fsencode(original_path(name)): each for name, each in found.items()} == written
        assert found.keys() == {stored_path(os.fsdecode(path)) for path in written}


def test_listing_imports_nothing_heavy_and_sources_need_neither_torch_nor_embed() -> None:
    code = (
        "import sys, importlib, pathlib, pkgutil, tempfile\n"
        "from headstrip.embed import sources\n"
        "folder = pathlib.Path(tempfile.mkdtemp()); (folder / 'a.jpg').write_bytes(b'1')\n"
        "source = sources.source_of(folder)\n"
        "print([source.reader().read(item) for item in source.items()])\n"
        "print({'torch', 'pyarrow', 'fsspec', 'PIL', 'numpy'} & set(sys.modules))\n"
        "for module in pkgutil.iter_modules(sources.__path__, sources.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "print({'torch', 'torchvision', 'fsspec'} & set(sys.modules))\n"
        "embed = [name for name in sys.modules if name.startswith('headstrip.embed.')]\n"
        "print([name for name in embed if not name.startswith('headstrip.embed.sources')])\n"
    )
    assert run_python("-c", code).stdout == "[b'1']\nset()\nset()\n[]\n"


def test_times_outside_int64_are_clipped_to_the_nearest_int64(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    os.utime(tmp_path / "a.jpg", (0, 13_569_465_600))
    os.utime(tmp_path / "b.jpg", (0, -5))
    if (tmp_path / "a.jpg").stat().st_mtime < 1e10:
        pytest.skip("the file system does not hold such a time")
    modified = {item.path: item.modified for item in source_of(tmp_path).items()}
    assert modified == {"a.jpg": 2**63 - 1, "b.jpg": -5 * 10**9}
    write_tar(tmp_path / "in" / "x.tar", {"c.jpg": b"3"})
    os.utime(tmp_path / "in" / "x.tar", (0, 13_569_465_600))
    assert contents(tmp_path / "in" / "x.tar") == {"x.tar/c.jpg": b"3"}
