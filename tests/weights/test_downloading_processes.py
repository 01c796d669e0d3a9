"""Several processes that want one file, and processes that are killed on the way to it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from tests.children import DIED, Children
from tests.servers import FaultServer, Reply

from headstrip.weights.downloading import download

BODY = bytes(range(256)) * 4096
SHA = hashlib.sha256(BODY).hexdigest()
FILE = f"x-{SHA[:8]}.pth"
DOWNLOAD = "headstrip.weights.downloading:download"
CODE = (
    "import sys; from headstrip.weights.downloading import download; print(download(sys.argv[1]))"
)

pty = pytest.importorskip("pty", reason="a terminal of its own, and processes that are forked")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes are forked")


@pytest.fixture
def server(faults: FaultServer) -> FaultServer:
    """A server that has the file."""
    faults.put(f"/{FILE}", BODY)
    return faults


@pytest.fixture
def children(server: FaultServer) -> Iterator[Children]:
    """Processes that have the environment of the test."""
    with Children() as forked:
        yield forked


def start(url: str) -> subprocess.Popen[str]:
    """Start a process that downloads."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, url],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def killed_midway(server: FaultServer, hub: Path, count: int, name: str = FILE) -> Path:
    """Kill a process that downloads when it has written ``count`` bytes; return what it left."""
    server.replies = [Reply(hold=count)]
    process = start(f"{server.url}/{name}")
    assert server.held.wait(30)
    while not (left := list(hub.glob("*.partial"))) or left[0].stat().st_size < count:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.released.set()
    return left[0]


def test_of_two_processes_one_downloads_and_the_other_waits(
    server: FaultServer, hub: Path, children: Children
) -> None:
    first, second = children.run_many(DOWNLOAD, f"{server.url}/{FILE}", processes=2)
    assert first.value == second.value == str(hub / FILE)
    assert len(server.asked) == 1
    assert (hub / FILE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_who_waits_for_another_process_says_so(server: FaultServer, hub: Path) -> None:
    server.replies = [Reply(hold=1000)]
    first = start(f"{server.url}/{FILE}")
    assert server.held.wait(30)
    second = start(f"{server.url}/{FILE}")
    assert second.stderr
    assert second.stderr.readline() == (
        f"headstrip: waiting for another process that downloads {hub / FILE}\n"
    )
    server.released.set()
    for process in (first, second):
        said, _ = process.communicate()
        assert said == f"{hub / FILE}\n"
    assert (hub / FILE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_a_process_that_waits_goes_on_with_what_a_killed_one_has_begun(
    server: FaultServer, hub: Path
) -> None:
    server.replies = [Reply(hold=300_000)]
    first = start(f"{server.url}/{FILE}")
    assert server.held.wait(30)
    second = start(f"{server.url}/{FILE}")
    assert second.stderr
    assert "waiting" in second.stderr.readline()
    first.kill()
    first.communicate()
    said, _ = second.communicate()
    assert said == f"{hub / FILE}\n"
    assert (hub / FILE).read_bytes() == BODY
    assert [asked.range is None for asked in server.asked] == [True, False]
    assert list(hub.iterdir()) == [hub / FILE]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no system that tells")
def test_a_process_that_ended_and_was_not_asked_how_is_gone(server: FaultServer, hub: Path) -> None:
    server.replies = [Reply(hold=300_000)]
    first = start(f"{server.url}/{FILE}")
    assert server.held.wait(30)
    while sum(path.stat().st_size for path in hub.glob("*.partial")) < 200_000:
        time.sleep(0.01)
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert [asked.range is None for asked in server.asked] == [True, False]
    first.communicate()


def test_a_lock_whose_holder_has_done_nothing_for_long_is_not_waited_for(
    server: FaultServer, hub: Path
) -> None:
    lock = hub / f"{FILE}.lock"
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(lock):
            os.utime(lock, (1e9, 1e9))
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    done.set()
    thread.join()


@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without"])
def test_threads_of_one_process_get_one_right_file(
    server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(download, [f"{server.url}/{FILE}"] * 4))
    assert found == [hub / FILE] * 4
    assert len(server.asked) == 1 or not locks
    assert (hub / FILE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_how_far_it_is_stands_on_a_terminal_and_nowhere_else(server: FaultServer) -> None:
    there, here = pty.openpty()
    shown = subprocess.Popen(
        [sys.executable, "-c", CODE, f"{server.url}/{FILE}"],
        stdout=subprocess.PIPE,
        stderr=here,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(here)
    said = b""
    # Linux answers EIO when the other side is closed, others an empty read.
    with contextlib.suppress(OSError):
        while piece := os.read(there, 4096):
            said += piece
    os.close(there)
    shown.communicate()
    assert FILE.encode() in said
    assert b"1.0/1.0 MB" in said
    server.put("/y.pth", BODY)
    _, quiet = start(f"{server.url}/y.pth").communicate()
    assert quiet == ""


@pytest.mark.parametrize("lock", ["lying_locks", "no_locks"])
def test_where_locks_lie_or_there_are_none_eight_processes_get_one_right_file(
    server: FaultServer, hub: Path, children: Children, lock: str
) -> None:
    ended = children.run_many(
        DOWNLOAD, f"{server.url}/{FILE}", processes=8, before=f"tests.children:{lock}"
    )
    assert [(each.code, each.value) for each in ended] == [(0, str(hub / FILE))] * 8
    assert (hub / FILE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_after_a_kill_the_next_call_goes_on_and_waits_for_no_lock(
    server: FaultServer, hub: Path
) -> None:
    killed_midway(server, hub, 300_000)
    assert not (hub / FILE).exists()
    assert (hub / f"{FILE}.lock").exists()
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert server.asked[1].range == "bytes=299999-"
    assert list(hub.iterdir()) == [hub / FILE]


@pytest.mark.parametrize(
    "reply", [Reply(ranges=False), Reply(headers={"ETag": '"new"'})], ids=["no parts", "changed"]
)
def test_after_a_kill_a_file_that_cannot_be_gone_on_with_is_downloaded_anew(
    server: FaultServer, hub: Path, reply: Reply
) -> None:
    left = killed_midway(server, hub, 300_000)
    left.write_bytes(bytes(300_000))
    server.usual = reply
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_where_nobody_knows_the_hash_what_a_kill_left_is_not_gone_on_with(
    server: FaultServer, hub: Path
) -> None:
    server.put("/y.pth", BODY)
    killed_midway(server, hub, 300_000, "y.pth")
    assert download(f"{server.url}/y.pth").read_bytes() == BODY
    assert [asked.range for asked in server.asked] == [None, None]
    assert list(hub.iterdir()) == [hub / "y.pth"]


def test_what_a_loss_of_power_left_in_place_of_the_bytes_is_noticed(
    server: FaultServer, hub: Path
) -> None:
    left = killed_midway(server, hub, 300_000)
    left.write_bytes(BODY[:200_000] + bytes(100_000))
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert [asked.range for asked in server.asked] == [None, "bytes=299999-", None]
    assert list(hub.iterdir()) == [hub / FILE]


def test_what_a_writer_without_a_lock_writes_is_left_alone_until_nobody_writes_to_it(
    server: FaultServer, hub: Path
) -> None:
    foreign = hub / f"{FILE}.0123abcd.partial"
    foreign.write_bytes(b"theirs")
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert set(hub.iterdir()) == {hub / FILE, foreign}
    (hub / FILE).unlink()
    os.utime(foreign, (1e9, 1e9))
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_ends_at_any_call_leaves_no_half_file_and_the_next_call_succeeds(
    server: FaultServer, hub: Path, children: Children, after: bool
) -> None:
    for at in itertools.count():
        ended = children.run(DOWNLOAD, f"{server.url}/{FILE}", at=at, after=after)
        if (hub / FILE).exists():
            assert (hub / FILE).read_bytes() == BODY
        assert download(f"{server.url}/{FILE}").read_bytes() == BODY
        assert [path for path in hub.iterdir() if path.suffix != ".lock"] == [hub / FILE]
        if ended.code != DIED:
            break
        (hub / FILE).unlink()
    assert {"open", "write", "fsync", "replace"} <= set(ended.seen)
