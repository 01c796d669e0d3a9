"""headstrip downloads complete files, whatever the server and the network do."""

from __future__ import annotations

import errno
import hashlib
import itertools
import socket
import time
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.failing import failing
from tests.servers import FaultServer, Reply, fault_server

from headstrip import WeightsError
from headstrip.weights.downloading import download
from headstrip.weights.records import recorded

BODY = bytes(range(256)) * 1200
SHA = hashlib.sha256(BODY).hexdigest()
FILE = f"x-{SHA[:8]}.pth"
PLACE = f"/models/{FILE}"


@pytest.fixture
def server(faults: FaultServer) -> FaultServer:
    """A server that has the file."""
    faults.put(PLACE, BODY)
    return faults


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the requested waiting times in seconds, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def parts(server: FaultServer) -> list[str | None]:
    """Return the Range header of each request."""
    return [request.range for request in server.asked]


def test_a_file_is_downloaded_once_and_its_hash_is_recorded(server: FaultServer, hub: Path) -> None:
    url = server.url + PLACE
    assert download(url, SHA) == download(url, SHA) == hub / FILE
    assert (hub / FILE).read_bytes() == BODY
    record = recorded(hub / FILE)
    assert record is not None
    assert (record.sha256, record.origin) == (SHA, "download")
    assert record.describes((hub / FILE).stat())
    assert parts(server) == [None]
    assert list(hub.iterdir()) == [hub / FILE]


def test_the_file_name_excludes_the_query_and_the_fragment_of_the_url(
    server: FaultServer, hub: Path
) -> None:
    server.put(f"{PLACE}?download=true", BODY)
    assert download(f"{server.url}{PLACE}?download=true#top") == hub / FILE


@pytest.mark.usefixtures("waits")
def test_a_download_resumes_after_the_connection_closes_early(
    server: FaultServer, hub: Path
) -> None:
    server.replies = [Reply(cut=100_000), Reply(cut=50_000)]
    assert download(server.url + PLACE, SHA).read_bytes() == BODY
    assert parts(server) == [None, "bytes=99999-", "bytes=149998-"]
    assert {request.if_range for request in server.asked[1:]} == {f'"{hash(BODY):x}"'}
    assert list(hub.iterdir()) == [hub / FILE]


@pytest.mark.usefixtures("waits")
def test_a_download_without_an_etag_resumes_by_its_last_modified_time(server: FaultServer) -> None:
    dated = {"ETag": None, "Last-Modified": formatdate(1e9, usegmt=True)}
    server.replies = [Reply(cut=100_000, headers=dated), Reply(headers=dated)]
    assert download(server.url + PLACE, SHA).read_bytes() == BODY
    assert server.asked[1].if_range == formatdate(1e9, usegmt=True)


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("headers", [{"ETag": None}, {"ETag": 'W/"1"'}], ids=["none", "weak"])
def test_a_download_without_a_strong_etag_restarts_from_the_beginning(
    server: FaultServer, headers: dict[str, str | None]
) -> None:
    server.replies = [Reply(cut=100_000, headers=headers)]
    server.usual = Reply(headers=headers)
    assert download(server.url + PLACE, SHA).read_bytes() == BODY
    assert parts(server) == [None, None]


@pytest.mark.usefixtures("waits")
def test_a_download_restarts_if_the_server_does_not_support_ranges(server: FaultServer) -> None:
    server.replies = [Reply(cut=100_000, ranges=False)] * 3
    server.usual = Reply(ranges=False)
    assert download(server.url + PLACE).read_bytes() == BODY


@pytest.mark.usefixtures("waits")
def test_a_download_restarts_if_the_file_changed_on_the_server(server: FaultServer) -> None:
    server.replies = [Reply(cut=100_000, headers={"ETag": '"old"'}, body=bytes(len(BODY)))]
    assert download(server.url + PLACE).read_bytes() == BODY
    assert parts(server) == [None, "bytes=99999-"]


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"new"'},
        {"Content-Range": "bytes 7-9/10"},
        {"Content-Range": f"bytes 99999-{len(BODY)}/{len(BODY) + 1}"},
        {"Content-Range": f"bytes 99999-{len(BODY)}/*"},
        {"Content-Range": None},
        {"Content-Range": "all of it"},
    ],
    ids=repr,
)
def test_a_part_of_another_file_is_not_appended_to_a_partial_download(
    server: FaultServer, headers: dict[str, str | None]
) -> None:
    old = {"ETag": '"old"'}
    server.replies = [
        Reply(cut=100_000, headers=old),
        Reply(conditional=False, headers={**old, **headers}),
    ]
    assert download(server.url + PLACE).read_bytes() == BODY
    assert parts(server) == [None, "bytes=99999-", None]


@pytest.mark.usefixtures("waits")
def test_a_download_restarts_if_the_file_became_shorter_on_the_server(server: FaultServer) -> None:
    server.replies = [Reply(cut=100_000, headers={"ETag": '"old"'}), Reply(status=416)]
    assert download(server.url + PLACE).read_bytes() == BODY
    assert parts(server) == [None, "bytes=99999-", None]


@pytest.mark.usefixtures("waits")
def test_parts_of_two_files_with_the_same_etag_are_not_combined(
    server: FaultServer, hub: Path
) -> None:
    same = {"ETag": '"same"'}
    other = bytes(len(BODY))
    server.replies = [Reply(cut=100_000, body=other, headers=same), Reply(headers=same)]
    server.usual = Reply(headers=same)
    assert download(server.url + PLACE).read_bytes() == BODY
    assert parts(server) == [None, "bytes=99999-", None]
    assert list(hub.iterdir()) == [hub / FILE]


@settings(max_examples=25)
@given(
    st.lists(
        st.builds(
            Reply,
            cut=st.integers(0, len(BODY) - 1),
            ranges=st.booleans(),
            chunked=st.booleans(),
            piece=st.integers(4096, 1 << 18),
            headers=st.sampled_from([{}, {"ETag": None}, {"ETag": '"a"'}, {"ETag": '"b"'}]),
        ),
        max_size=4,
    )
)
def test_a_download_gets_the_right_file_however_often_it_is_interrupted(
    replies: list[Reply],
) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        for name in ("TORCH_HOME", "HEADSTRIP_CACHE"):
            patch.setenv(name, folder)
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setattr(time, "sleep", lambda _: None)
        with fault_server() as server:
            url = server.put(PLACE, BODY)
            server.replies = list(replies)
            path = download(url, SHA)
            assert path.read_bytes() == BODY
            assert list(path.parent.iterdir()) == [path]


def test_a_download_gives_up_after_five_attempts_and_the_next_call_resumes_it(
    server: FaultServer, hub: Path, waits: list[float]
) -> None:
    server.usual = Reply(cut=1000)
    with pytest.raises(WeightsError) as caught:
        download(server.url + PLACE)
    for part in (server.url + PLACE, str(hub), "closed the connection after 4,996 of 307,200"):
        assert part in str(caught.value)
    assert len(server.asked) == 5
    assert not (hub / FILE).exists()
    server.usual = Reply()
    assert download(server.url + PLACE).read_bytes() == BODY
    assert parts(server)[-1] == "bytes=4995-"
    assert list(hub.iterdir()) == [hub / FILE]
    backoff = [wait for wait in waits if wait >= 0.5]
    assert len(backoff) == 4
    assert all(later > earlier for earlier, later in itertools.pairwise(backoff))


@pytest.mark.usefixtures("waits")
def test_a_large_file_gets_more_attempts_while_its_download_progresses(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_RETRIES", "1")
    large = bytes(30 << 20)
    url = server.put("/large.pth", large)
    server.replies = [Reply(cut=9 << 20, piece=1 << 20)] * 3
    assert download(url).read_bytes() == large
    assert len(server.asked) == 4


@pytest.mark.usefixtures("waits")
def test_a_failed_download_without_a_known_hash_leaves_no_file(
    server: FaultServer, hub: Path
) -> None:
    server.put("/y.pth", BODY)
    server.usual = Reply(cut=1000)
    with pytest.raises(WeightsError, match="closed the connection"):
        download(f"{server.url}/y.pth")
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_download_retries_after_a_temporary_server_error(
    server: FaultServer, waits: list[float], status: int
) -> None:
    server.replies = [Reply(status=status)] * 2
    assert download(server.url + PLACE).read_bytes() == BODY
    assert len(server.asked) == 3
    assert [wait for wait in waits if wait >= 0.5]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_download_does_not_retry_after_a_permanent_error(
    server: FaultServer, hub: Path, waits: list[float], status: int
) -> None:
    server.usual = Reply(status=status)
    with pytest.raises(WeightsError, match=rf"the server answers {status} .*Check the network"):
        download(server.url + PLACE)
    assert (len(server.asked), waits) == (1, [])
    assert list(hub.iterdir()) == []


def test_a_download_retries_at_the_time_that_retry_after_states(
    server: FaultServer, waits: list[float]
) -> None:
    date = formatdate(time.time() + 30, usegmt=True)
    server.replies = [
        Reply(status=503, headers={"Retry-After": "7"}),
        Reply(status=429, headers={"Retry-After": date}),
        Reply(status=429, headers={"Retry-After": "soon"}),
    ]
    assert download(server.url + PLACE).read_bytes() == BODY
    first, second, third = (wait for wait in waits if wait >= 0.5)
    assert first == 7
    assert 20 < second <= 30
    assert 2 <= third < 7


def test_a_download_does_not_wait_for_a_retry_after_of_an_hour(
    server: FaultServer, waits: list[float]
) -> None:
    server.usual = Reply(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(WeightsError, match=r"429 Too Many Requests, and asks to wait 3600 s"):
        download(server.url + PLACE)
    assert (len(server.asked), waits) == (1, [])


@pytest.mark.parametrize(("retries", "requests"), [("0", 1), ("2", 3)])
@pytest.mark.usefixtures("waits")
def test_headstrip_retries_sets_the_number_of_retries(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, retries: str, requests: int
) -> None:
    monkeypatch.setenv("HEADSTRIP_RETRIES", retries)
    server.usual = Reply(status=503)
    with pytest.raises(WeightsError, match="the server answers 503"):
        download(server.url + PLACE)
    assert len(server.asked) == requests


@pytest.mark.usefixtures("waits")
def test_a_download_times_out_and_resumes_if_the_server_stops_sending(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_TIMEOUT", "0.2")
    server.replies = [Reply(hold=100_000)]
    assert download(server.url + PLACE).read_bytes() == BODY
    assert parts(server) == [None, "bytes=99999-"]
    monkeypatch.setenv("HEADSTRIP_RETRIES", "1")
    server.put("/silent.pth", BODY)
    server.usual = Reply(hold=0)
    with pytest.raises(WeightsError, match="broke after 0 bytes: timed out"):
        download(f"{server.url}/silent.pth")


def test_a_slow_download_finishes_without_a_retry(server: FaultServer) -> None:
    server.usual = Reply(piece=997)
    assert download(server.url + PLACE).read_bytes() == BODY
    assert len(server.asked) == 1


@pytest.mark.parametrize("variable", ["HEADSTRIP_RETRIES", "HEADSTRIP_TIMEOUT"])
@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
def test_a_setting_that_is_not_a_valid_number_gives_a_clear_error(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(WeightsError, match=rf"{variable} must be a number from .*, got '{value}'"):
        download(server.url + PLACE)
    assert server.asked == []


def test_a_web_page_instead_of_the_file_is_refused(server: FaultServer, hub: Path) -> None:
    server.usual = Reply(body=b"<html>Log in", headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(WeightsError, match=r"sends a web page \(text/html\) instead of the file"):
        download(server.url + PLACE)
    assert len(server.asked) == 1
    assert list(hub.iterdir()) == []


@pytest.mark.usefixtures("waits")
def test_a_content_length_above_the_real_size_is_detected(server: FaultServer, hub: Path) -> None:
    server.usual = Reply(headers={"Content-Length": str(len(BODY) + 1), "ETag": None})
    with pytest.raises(WeightsError, match=r"after 307,200 of 307,201 bytes"):
        download(server.url + PLACE)
    assert list(hub.iterdir()) == []


def test_a_content_length_below_the_real_size_is_detected_by_the_hash(
    server: FaultServer, hub: Path
) -> None:
    server.usual = Reply(headers={"Content-Length": str(len(BODY) - 1)})
    with pytest.raises(WeightsError, match=f"its sha256 is .* but {SHA[:8]} was expected"):
        download(server.url + PLACE)
    assert list(hub.iterdir()) == []


def test_a_download_without_a_content_length_is_refused(server: FaultServer, hub: Path) -> None:
    server.usual = Reply(headers={"Content-Length": None})
    with pytest.raises(WeightsError, match="does not state the size of the file"):
        download(server.url + PLACE)
    assert list(hub.iterdir()) == []


def test_a_compressed_response_is_refused(server: FaultServer) -> None:
    server.usual = Reply(headers={"Content-Encoding": "gzip"})
    with pytest.raises(WeightsError, match="compresses the file"):
        download(server.url + PLACE)


@pytest.mark.usefixtures("waits")
def test_a_download_accepts_a_chunked_response(server: FaultServer, hub: Path) -> None:
    server.replies = [Reply(chunked=True, cut=100_000, piece=1000)]
    server.usual = Reply(chunked=True, piece=1000)
    assert download(server.url + PLACE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_an_empty_file_can_be_downloaded(server: FaultServer, hub: Path) -> None:
    server.put("/empty.pth", b"")
    assert download(f"{server.url}/empty.pth").read_bytes() == b""
    assert list(hub.iterdir()) == [hub / "empty.pth"]


@pytest.mark.parametrize("sha256", ["", SHA, SHA[:8], SHA[:10].upper()])
def test_a_file_with_another_hash_is_refused_and_removed(
    server: FaultServer, hub: Path, sha256: str
) -> None:
    server.put(PLACE, b"another")
    with pytest.raises(WeightsError) as caught:
        download(server.url + PLACE, sha256)
    found = hashlib.sha256(b"another").hexdigest()
    for part in (server.url + PLACE, f"its sha256 is {found}", (sha256 or SHA[:8]).lower()):
        assert part in str(caught.value)
    assert list(hub.iterdir()) == []


def test_the_hash_is_taken_from_the_bytes_on_disk(
    server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(len(data))))
    with pytest.raises(WeightsError, match="its sha256 is"):
        download(server.url + PLACE)
    monkeypatch.undo()
    assert not (hub / FILE).exists()


def test_a_download_continues_after_partial_writes(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: max(1, len(data) // 2)]))
    assert download(server.url + PLACE).read_bytes() == BODY


@pytest.mark.usefixtures("waits")
def test_a_download_restarts_if_its_partial_file_disappears(server: FaultServer, hub: Path) -> None:
    with failing("replace", at=0, error=errno.ENOENT):
        assert download(server.url + PLACE).read_bytes() == BODY
    assert parts(server) == [None, None]
    assert list(hub.iterdir()) == [hub / FILE]


def test_a_download_succeeds_if_the_file_system_cannot_sync(server: FaultServer) -> None:
    with failing("fsync", at=0, error=errno.EINVAL) as calls:
        assert download(server.url + PLACE).read_bytes() == BODY
    assert calls.hit


@pytest.mark.usefixtures("waits")
def test_a_download_does_not_retry_if_the_connection_is_refused(
    dead_url: str, waits: list[float]
) -> None:
    with pytest.raises(WeightsError, match=r"refused\)\. Check the network"):
        download(f"{dead_url}/{FILE}")
    assert waits == []


@pytest.mark.parametrize("setting", ["HEADSTRIP_OFFLINE", "offline=True"])
def test_an_offline_download_opens_no_socket_and_says_where_to_copy_the_file(
    server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    def opened(*_: object, **__: object) -> None:
        pytest.fail("a socket was opened")

    offline = setting == "offline=True"
    if not offline:
        monkeypatch.setenv(setting, "1")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", opened)
        patch.setattr(socket, "getaddrinfo", opened)
        with pytest.raises(WeightsError) as caught:
            download(server.url + PLACE, offline=offline)
        for part in (server.url + PLACE, f"{setting} forbids", f"copy it to {hub / FILE}"):
            assert part in str(caught.value)
        (hub / FILE).write_bytes(BODY)
        assert download(server.url + PLACE, offline=offline) == hub / FILE
