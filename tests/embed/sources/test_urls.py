"""URLs, read by the drivers of fsspec."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import pixels, tiny_encoder
from tests.embed.sources.made import contents, write_files, write_images, write_tar
from tests.servers import FaultServer, Reply, fault_server

from headstrip import EmbedOptions, HeadstripError, ImageError, embed_source, load_embeddings
from headstrip.embed.sources import source_of
from headstrip.embed.sources.urls import size_and_time_in
from headstrip.images.size_limit import MAX_BYTES

fsspec = pytest.importorskip("fsspec", reason="urls are read by fsspec")


OPEN: dict[str, Any] = {"allow_schemes": ["memory", "file"], "allow_private": True}


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


def test_images_below_a_url_are_named_relative_to_it(memory: Any) -> None:
    found = {"a.jpg": b"1", "in/b.png": b"2"}
    assert contents("memory://photos", **OPEN) == contents("memory://photos/", **OPEN) == found
    assert contents("memory://", **OPEN) == {f"photos/{name}": each for name, each in found.items()}


def test_a_url_may_be_a_pattern_or_one_image(memory: Any) -> None:
    assert contents("memory://photos/**/*.png", **OPEN) == {"in/b.png": b"2"}
    assert contents("memory://photos/*", **OPEN) == {"a.jpg": b"1"}
    assert contents("memory://photos/in/b.png", **OPEN) == {"b.png": b"2"}


def test_sizes_and_times_are_taken_from_the_driver(memory: Any, tmp_path: Path) -> None:
    (item,) = source_of("memory://photos/a.jpg", **OPEN).items()
    assert item.size == 1
    assert item.modified > 0
    path = write_files(tmp_path, {"a.jpg": b"123"}) / "a.jpg"
    (item,) = source_of(path.as_uri(), **OPEN).items()
    assert item.size == 3
    assert abs(item.modified - path.stat().st_mtime_ns) < 1000


def test_file_urls_are_read(tmp_path: Path) -> None:
    files = {"a.jpg": b"1", "in/b c.png": b"2"}
    assert contents(f"file://{write_files(tmp_path, files)}", **OPEN) == files


def test_archives_tables_and_lists_are_read_by_url(memory: Any, tmp_path: Path) -> None:
    memory.put(str(write_tar(tmp_path / "x.tar", {"a.jpg": b"1", "b.jpg": b"2"})), "/many/x.tar")
    memory.put(str(write_images(tmp_path / "y.parquet", [b"3"])), "/rows/y.parquet")
    memory.pipe("/photos/list.csv", b"path\nin/b.png\na.jpg\ngone.jpg\n")
    archive = {"x.tar/a.jpg": b"1", "x.tar/b.jpg": b"2"}
    assert contents("memory://many/x.tar", **OPEN) == contents("memory://many", **OPEN) == archive
    assert contents("memory://rows/y.parquet", **OPEN) == {"y.parquet/000000000": b"3"}
    assert contents("memory://rows/*.parquet", **OPEN) == {"y.parquet/000000000": b"3"}
    assert contents("memory://photos/list.csv", **OPEN) == {
        "in/b.png": b"2",
        "a.jpg": b"1",
        "gone.jpg": "No such file or directory.",
    }


def test_a_list_may_contain_urls(memory: Any, tmp_path: Path) -> None:
    write_files(tmp_path, {"b.jpg": b"2", "l.txt": b"memory://photos/a.jpg\nb.jpg\nmemory://x/y\n"})
    assert contents(tmp_path / "l.txt", **OPEN) == {
        "memory://photos/a.jpg": b"1",
        "b.jpg": b"2",
        "memory://x/y": "No such file or directory.",
    }


def test_http_urls_in_a_list_are_read(server: FaultServer, tmp_path: Path) -> None:
    there = server.put("/a.jpg", b"1" * 100_000)
    empty, gone = server.put("/empty.jpg", b""), server.url + "/gone.jpg"
    (tmp_path / "list.txt").write_text(f"{there}\n{empty}\n{gone}\n")
    assert contents(tmp_path / "list.txt", **OPEN) == {
        there: b"1" * 100_000,
        empty: "the file is empty.",
        gone: "the server answers 404 Not Found.",
    }


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(status=500), "the server answers 500 Internal Server Error."),
        (Reply(status=403), "the server answers 403 Forbidden."),
        (
            Reply(status=302, headers={"Location": "/a.jpg?key=secret"}),
            "the server redirects it too often.",
        ),
    ],
)
def test_the_reason_of_an_image_behind_a_url_is_the_answer_of_its_server(
    server: FaultServer, tmp_path: Path, reply: Reply, reason: str
) -> None:
    there = server.put("/a.jpg", b"1")
    (tmp_path / "list.txt").write_text(f"{there}?key=secret\n")
    server.put("/a.jpg?key=secret", b"1")
    server.usual = reply
    (found,) = contents(tmp_path / "list.txt", **OPEN).values()
    assert found == reason


def test_images_of_unknown_time_are_named_and_compared_on_request(
    server: FaultServer, tmp_path: Path
) -> None:
    def png(number: int) -> bytes:
        Image.fromarray(pixels(number)).save(file := BytesIO(), "png")
        return file.getvalue()

    addresses = [server.put(f"/{number}.png", png(number)) for number in range(2)]
    (tmp_path / "gone.txt").write_text("\n".join([*addresses, "gone.jpg"]))
    source, out = source_of(tmp_path / "gone.txt", **OPEN), tmp_path / "out.parquet"

    def embed(**options: Any) -> tuple[int, list[str]]:
        messages: list[str] = []
        options = {"workers": 0, **options}
        report = embed_source(
            tiny_encoder(), source, out, options=EmbedOptions(**options), notify=messages.append
        )
        return report.computed, messages

    assert embed() == (3, [])
    first = np.nan_to_num(load_embeddings(out)[1])
    server.put("/1.png", png(5))
    sentence = (
        f"headstrip does not ask servers whether {addresses[0]!r} and 1 more images changed, and "
        "keeps their rows. Pass --checksum (checksum=True) to download them and compare their "
        "bytes."
    )
    assert embed() == (0, [sentence])
    assert np.array_equal(np.nan_to_num(load_embeddings(out)[1]), first)
    # The image that does not exist is tried again.
    assert embed(checksum=True)[0] == 2
    changed = (np.nan_to_num(load_embeddings(out)[1]) != first).any(1)
    assert dict(zip(load_embeddings(out)[0], changed, strict=True)) == {
        addresses[0]: False,
        addresses[1]: True,
        "gone.jpg": False,
    }


def test_a_broken_connection_while_a_list_is_read_is_reported(server: FaultServer) -> None:
    server.put("/list.txt", b"a.jpg\n" * 10_000)
    source = source_of(server.url + "/list.txt")
    server.usual = Reply(cut=100)
    with pytest.raises(HeadstripError, match=r"list\.txt' cannot be read: ") as caught:
        list(source.items())
    assert not isinstance(caught.value.__cause__, OSError)


def test_a_page_of_links_is_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads https by aiohttp")
    write_files(tmp_path, {"a b.jpg": b"1", "in/c.jpg": b"2", "notes.txt": b"3"})
    handler = partial(Listing, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = contents(f"http://127.0.0.1:{running.server_port}/", **OPEN)
        running.shutdown()
        thread.join()
    assert found == {"a%20b.jpg": b"1", "in/c.jpg": b"2"}


def test_the_signature_of_a_url_is_not_shown(server: FaultServer) -> None:
    url = server.put("/a.jpg?signature=secret", b"1")
    source = source_of(url, **OPEN)
    assert list(contents(source).values()) == [b"1"]
    assert source.describe() == {"kind": "files", "where": server.url + "/a.jpg"}


def test_passwords_are_not_shown(memory: Any) -> None:
    where = source_of("memory://user:secret@photos/a.jpg", **OPEN).describe()["where"]
    assert where == "memory://photos/a.jpg"


def test_files_behind_urls_are_read_only_up_to_the_size_limit(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "it has 4 bytes, and at most 3 are read."
    monkeypatch.setattr("headstrip.embed.sources.urls.MAX_BYTES", 3)
    monkeypatch.setattr("headstrip.images.size_limit.MAX_BYTES", 3)
    memory.pipe("/photos/a.jpg", b"1" * (MAX_BYTES >> 20))
    (tmp_path / "list.txt").write_text("memory://photos/a.jpg\n")
    assert contents(tmp_path / "list.txt", **OPEN) == {"memory://photos/a.jpg": message}


def test_a_missing_driver_is_reported(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"no driver for 'nobody' here .*Protocol not known"):
        source_of("nobody://photos", allow_schemes=["nobody"])
    (tmp_path / "list.txt").write_text("nobody://photos/a.jpg\n")
    (message,) = contents(tmp_path / "list.txt", allow_schemes=["nobody"]).values()
    assert "no driver for 'nobody'" in str(message)


def test_without_fsspec_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(HeadstripError, match=r"Run pip install 'headstrip\[fsspec\]'\."):
        source_of("s3://bucket/photos")


def test_a_url_with_nothing_below_is_reported(memory: Any) -> None:
    with pytest.raises(HeadstripError, match="'memory://none/' cannot be listed"):
        source_of("memory://none/", **OPEN)
    with pytest.raises(HeadstripError, match="'memory://none' cannot be listed"):
        source_of("memory://none", **OPEN)


def rows_of(tmp_path: Path, *urls: str, **options: Any) -> dict[str, bytes | str]:
    (tmp_path / "list.txt").write_text("".join(f"{url}\n" for url in urls))
    return contents(tmp_path / "list.txt", **options)


def test_a_row_may_not_point_to_a_private_address_unless_allowed(
    server: FaultServer, tmp_path: Path
) -> None:
    url = server.put("/a.jpg", b"1")
    assert "127.0.0.1, which is not a public address" in str(rows_of(tmp_path, url)[url])
    assert server.asked == []
    assert rows_of(tmp_path, url, allow_private=True) == {url: b"1"}


def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *how, **more: found("127.0.0.1", *how, **more)
    )
    server.put("/a.jpg", b"1")
    url = server.url.replace("127.0.0.1", "photos.example.org") + "/a.jpg"
    assert "127.0.0.1, which is not a public address" in str(rows_of(tmp_path, url)[url])
    assert server.asked == []


def test_a_url_passed_as_the_source_may_be_private_with_everything_below_it(
    server: FaultServer,
) -> None:
    server.put("/a.jpg", b"1")
    assert contents(server.url + "/a.jpg") == {"a.jpg": b"1"}
    server.put("/list.txt", f"a.jpg\n{server.url}/a.jpg\n".encode())
    assert contents(server.url + "/list.txt") == {"a.jpg": b"1", server.url + "/a.jpg": b"1"}


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("OTHER/secret.jpg", "it leads to 127.0.0.1, which is not a public"),
        ("http://169.254.169.254/x.jpg", "it leads to 169.254.169.254"),
        ("http://[::ffff:10.0.0.1]/x.jpg", "it leads to ::ffff:10.0.0.1"),
        ("http://2130706433:PORT/secret.jpg", "it leads to 2130706433"),
        ("file:///etc/hostname", "headstrip follows redirects to http and"),
        ("reference://x", "headstrip follows redirects to http and https"),
        ("//localhost:PORT/secret.jpg", "it leads to localhost"),
    ],
)
def test_a_redirect_to_a_private_address_or_a_file_is_refused(
    server: FaultServer, location: str, message: str
) -> None:
    with fault_server() as other:
        other.put("/secret.jpg", b"secret")
        port = other.url.rpartition(":")[2]
        target = location.replace("OTHER", other.url).replace("PORT", port)
        server.put("/list.txt", b"a.jpg\n")
        source = source_of(server.url + "/list.txt")
        (item,) = source.items()
        server.usual = Reply(status=302, headers={"Location": target})
        with pytest.raises(ImageError, match=re.escape(f"the server redirects it, and {message}")):
            source.reader().read(item)
        assert other.asked == []


def test_a_redirect_within_the_server_of_the_source_is_followed(server: FaultServer) -> None:
    server.put("/list.txt", b"a.jpg\n")
    source = source_of(server.url + "/list.txt")
    (item,) = source.items()
    server.usual = Reply(status=302, headers={"Location": "/b.jpg"})
    with pytest.raises(ImageError):
        source.reader().read(item)
    assert "/b.jpg" in {asked.path for asked in server.asked}


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("HEADSTRIP_OFFLINE", "https://example.org/a.jpg"),
        ("HEADSTRIP_OFFLINE", "s3://bucket/a.jpg"),
        ("HF_HUB_OFFLINE", "hf://datasets/org/name/a.jpg"),
    ],
)
def test_offline_mode_forbids_urls(
    setting: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, "1")
    message = f"{setting} forbids reading addresses of a network. Unset it"
    assert str(rows_of(tmp_path, url)[url]).startswith(message)
    with pytest.raises(HeadstripError, match=f"cannot be read: {setting} forbids"):
        source_of(url)


def test_offline_mode_still_allows_sources_on_this_machine(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")
    assert contents("memory://photos/in/b.png", **OPEN) == {"b.png": b"2"}
    with pytest.raises(HeadstripError, match="offline=True forbids"):
        source_of("https://example.org/photos/", offline=True)


def test_a_relative_row_of_a_list_behind_a_url_cannot_chain_file_systems(memory: Any) -> None:
    memory.pipe("/photos/list.txt", b"a.jpg::reference://x\nin/../a.jpg::file:///etc/hostname\n")
    for message in contents("memory://photos/list.txt", **OPEN).values():
        assert str(message).startswith("headstrip does not read chained urls ('::')")


def test_an_allowed_scheme_must_be_a_valid_name() -> None:
    with pytest.raises(HeadstripError, match="'a b' cannot be the scheme of an address"):
        source_of("photos", allow_schemes=["a b"])


@pytest.mark.parametrize("size", ["1" + "0" * 30, "-5", "x"])
def test_an_invalid_content_length_becomes_a_row_with_a_reason(
    server: FaultServer, tmp_path: Path, size: str
) -> None:
    url = server.put("/a.jpg", b"1")
    server.usual = Reply(headers={"Content-Length": size})
    assert isinstance(rows_of(tmp_path, url, allow_private=True)[url], str)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"size": 10**30, "mtime": 1e30}, (2**63 - 1, 2**63 - 1)),
        ({"size": -1, "mtime": float("nan")}, (0, 0)),
        ({"size": float("inf"), "mtime": float("inf")}, (0, 0)),
        ({"size": "7", "LastModified": "yesterday"}, (0, 0)),
        ({"size": None, "mtime": -(10**40)}, (0, 1 - 2**63)),
        ({"size": 7, "updated": "9999-12-31T23:59:59Z"}, (7, 2**63 - 1)),
        ({"size": 7, "updated": "1900-01-01T00:00:00Z"}, (7, -2208988800 * 10**9)),
    ],
)
def test_sizes_and_times_from_a_driver_are_clipped_to_the_columns(
    info: Any, expected: tuple[int, int]
) -> None:
    assert size_and_time_in(info) == expected


def test_a_server_that_sends_whole_archives_gives_errors_not_wrong_images(
    server: FaultServer, tmp_path: Path
) -> None:
    archive = write_tar(tmp_path / "x.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    server.put("/x.tar", archive.read_bytes())
    found = contents(server.url + "/x.tar")
    assert list(found) == ["x.tar/a.jpg", "x.tar/b.jpg"]
    assert {str(each)[:26] for each in found.values()} == {"the server sends more than"}
