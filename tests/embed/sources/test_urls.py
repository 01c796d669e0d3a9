"""Urls, by fsspec's drivers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.embed.sources.made import contents, write_files, write_images, write_tar
from tests.servers import FaultServer, fault_server

from headstrip import HeadstripError
from headstrip.embed.sources import MAX_BYTES, source_of

fsspec = pytest.importorskip("fsspec", reason="urls are read by fsspec")


class Listing(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.pipe({"/photos/a.jpg": b"1", "/photos/in/b.png": b"2", "/photos/notes.txt": b"3"})
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    pytest.importorskip("aiohttp", reason="fsspec reads https by aiohttp")
    with fault_server() as running:
        yield running


def test_what_is_below_a_url_is_named_relative_to_it(memory: Any) -> None:
    found = {"a.jpg": b"1", "in/b.png": b"2"}
    assert contents("memory://photos") == contents("memory://photos/") == found
    assert contents("memory://") == {f"photos/{name}": each for name, each in found.items()}


def test_a_url_may_be_a_pattern_or_one_image(memory: Any) -> None:
    assert contents("memory://photos/**/*.png") == {"in/b.png": b"2"}
    assert contents("memory://photos/*") == {"a.jpg": b"1"}
    assert contents("memory://photos/in/b.png") == {"b.png": b"2"}


def test_sizes_and_times_are_taken_from_the_driver(memory: Any, tmp_path: Path) -> None:
    (item,) = source_of("memory://photos/a.jpg").items()
    assert item.size == 1
    assert item.modified > 0
    path = write_files(tmp_path, {"a.jpg": b"123"}) / "a.jpg"
    (item,) = source_of(path.as_uri()).items()
    assert item.size == 3
    assert abs(item.modified - path.stat().st_mtime_ns) < 1000


def test_files_of_this_machine_have_urls_too(tmp_path: Path) -> None:
    files = {"a.jpg": b"1", "in/b c.png": b"2"}
    assert contents(f"file://{write_files(tmp_path, files)}") == files


def test_archives_tables_and_lists_are_read_by_url(memory: Any, tmp_path: Path) -> None:
    memory.put(str(write_tar(tmp_path / "x.tar", {"a.jpg": b"1", "b.jpg": b"2"})), "/many/x.tar")
    memory.put(str(write_images(tmp_path / "y.parquet", [b"3"])), "/rows/y.parquet")
    memory.pipe("/photos/list.csv", b"path\nin/b.png\na.jpg\ngone.jpg\n")
    archive = {"x.tar/a.jpg": b"1", "x.tar/b.jpg": b"2"}
    assert contents("memory://many/x.tar") == contents("memory://many") == archive
    assert contents("memory://rows/y.parquet") == {"y.parquet/000000000": b"3"}
    assert contents("memory://rows/*.parquet") == {"y.parquet/000000000": b"3"}
    assert contents("memory://photos/list.csv") == {
        "in/b.png": b"2", "a.jpg": b"1", "gone.jpg": "No such file or directory.",
    }  # fmt: skip


def test_a_list_may_have_urls(memory: Any, tmp_path: Path) -> None:
    write_files(tmp_path, {"b.jpg": b"2", "l.txt": b"memory://photos/a.jpg\nb.jpg\nmemory://x/y\n"})
    assert contents(tmp_path / "l.txt") == {
        "memory://photos/a.jpg": b"1", "b.jpg": b"2", "memory://x/y": "No such file or directory.",
    }  # fmt: skip


def test_https_is_read_where_a_list_names_it(server: FaultServer, tmp_path: Path) -> None:
    there = server.put("/a.jpg", b"1" * 100_000)
    empty, gone = server.put("/empty.jpg", b""), server.url + "/gone.jpg"
    (tmp_path / "list.txt").write_text(f"{there}\n{empty}\n{gone}\n")
    assert contents(tmp_path / "list.txt") == {
        there: b"1" * 100_000, empty: "the file is empty.", gone: "No such file or directory.",
    }  # fmt: skip


def test_a_page_of_links_is_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads https by aiohttp")
    write_files(tmp_path, {"a b.jpg": b"1", "in/c.jpg": b"2", "notes.txt": b"3"})
    handler = partial(Listing, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = contents(f"http://127.0.0.1:{running.server_port}/")
        running.shutdown()
        thread.join()
    assert found == {"a%20b.jpg": b"1", "in/c.jpg": b"2"}


def test_one_image_behind_a_url_with_a_signature_is_told_without_it(server: FaultServer) -> None:
    url = server.put("/a.jpg?signature=secret", b"1")
    source = source_of(url)
    assert list(contents(source).values()) == [b"1"]
    assert source.describe() == {"kind": "files", "where": server.url + "/a.jpg"}


def test_passwords_are_not_told(memory: Any) -> None:
    where = source_of("memory://user:secret@photos/a.jpg").describe()["where"]
    assert where == "memory://photos/a.jpg"


def test_no_more_than_the_limit_is_read_behind_a_url(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "it has 4 bytes, and at most 3 are read."
    monkeypatch.setattr("headstrip.embed.sources.urls.MAX_BYTES", 3)
    monkeypatch.setattr("headstrip.embed.sources.items.MAX_BYTES", 3)
    memory.pipe("/photos/a.jpg", b"1" * (MAX_BYTES >> 20))
    (tmp_path / "list.txt").write_text("memory://photos/a.jpg\n")
    assert contents(tmp_path / "list.txt") == {"memory://photos/a.jpg": said}


def test_a_driver_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"no driver for 'nobody' here .*Protocol not known"):
        source_of("nobody://photos")
    (tmp_path / "list.txt").write_text("nobody://photos/a.jpg\n")
    (said,) = contents(tmp_path / "list.txt").values()
    assert "no driver for 'nobody'" in str(said)


def test_without_fsspec_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(HeadstripError, match=r"Run pip install 'headstrip\[fsspec\]'\."):
        source_of("s3://bucket/photos")


def test_a_url_with_nothing_below_is_told(memory: Any) -> None:
    with pytest.raises(HeadstripError, match="'memory://none/' cannot be listed"):
        source_of("memory://none/")
    with pytest.raises(HeadstripError, match="'memory://none' cannot be listed"):
        source_of("memory://none")
