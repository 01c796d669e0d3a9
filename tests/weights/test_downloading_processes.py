"""Several processes download one file at once, or die during the download."""

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

pty = pytest.importorskip("pty", reason="these tests need a pseudo-terminal and forked processes")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes are forked")


@pytest.fixture
def server(faults: FaultServer) -> FaultServer:
    """A server that has the file."""
    faults.put(f"/{FILE}", BODY)
    return faults


@pytest.fixture
def children(server: FaultServer) -> Iterator[Children]:
    """Child processes with the environment of the test."""
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
    """Kill a download after it wrote ``count`` bytes, and return its partial file."""
    server.replies = [Reply(hold=count)]
    process = start(f"{server.url}/{name}")
    assert server.held.wait(30)
    while not (left := list(hub.glob("*.partial"))) or left[0].stat().st_size < count:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.released.set()
    return left[0]


def test_one_of_two_processes_downloads_and_the_other_waits(
    server: FaultServer, hub: Path, children: Children
) -> None:
    first, second = children.run_many(DOWNLOAD, f"{server.url}/{FILE}", processes=2)
    assert first.value == second.value == str(hub / FILE)
    assert len(server.asked) == 1
    assert (hub / FILE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_a_process_that_waits_for_another_download_prints_a_message(
    server: FaultServer, hub: Path
) -> None:
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
        output, _ = process.communicate()
        assert output == f"{hub / FILE}\n"
    assert (hub / FILE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_a_waiting_process_resumes_the_download_of_a_killed_one(
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
    output, _ = second.communicate()
    assert output == f"{hub / FILE}\n"
    assert (hub / FILE).read_bytes() == BODY
    assert [request.range is None for request in server.asked] == [True, False]
    assert list(hub.iterdir()) == [hub / FILE]


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="only /proc shows zombie processes"
)
def test_a_download_that_a_zombie_process_began_is_resumed(server: FaultServer, hub: Path) -> None:
    server.replies = [Reply(hold=300_000)]
    first = start(f"{server.url}/{FILE}")
    assert server.held.wait(30)
    while sum(path.stat().st_size for path in hub.glob("*.partial")) < 200_000:
        time.sleep(0.01)
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert [request.range is None for request in server.asked] == [True, False]
    first.communicate()


def test_a_download_does_not_wait_for_a_lock_that_was_idle_for_long(
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
def test_threads_of_one_process_share_one_complete_file(
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


def test_the_progress_appears_only_on_a_terminal(server: FaultServer) -> None:
    there, here = pty.openpty()
    shown = subprocess.Popen(
        [sys.executable, "-c", CODE, f"{server.url}/{FILE}"],
        stdout=subprocess.PIPE,
        stderr=here,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(here)
    output = b""
    # After the other side closes, Linux raises EIO and other systems return an empty read.
    with contextlib.suppress(OSError):
        while piece := os.read(there, 4096):
            output += piece
    os.close(there)
    shown.communicate()
    assert FILE.encode() in output
    assert b"1.0/1.0 MB" in output
    server.put("/y.pth", BODY)
    _, quiet = start(f"{server.url}/y.pth").communicate()
    assert quiet == ""


@pytest.mark.parametrize("lock", ["lying_locks", "no_locks"])
def test_eight_processes_get_one_complete_file_even_if_locks_do_not_work(
    server: FaultServer, hub: Path, children: Children, lock: str
) -> None:
    ended = children.run_many(
        DOWNLOAD, f"{server.url}/{FILE}", processes=8, before=f"tests.children:{lock}"
    )
    assert [(each.code, each.value) for each in ended] == [(0, str(hub / FILE))] * 8
    assert (hub / FILE).read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_the_next_call_resumes_a_killed_download_despite_its_lock_file(
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
def test_a_killed_download_that_cannot_be_resumed_restarts(
    server: FaultServer, hub: Path, reply: Reply
) -> None:
    left = killed_midway(server, hub, 300_000)
    left.write_bytes(bytes(300_000))
    server.usual = reply
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert list(hub.iterdir()) == [hub / FILE]


def test_a_killed_download_without_a_known_hash_restarts(server: FaultServer, hub: Path) -> None:
    server.put("/y.pth", BODY)
    killed_midway(server, hub, 300_000, "y.pth")
    assert download(f"{server.url}/y.pth").read_bytes() == BODY
    assert [request.range for request in server.asked] == [None, None]
    assert list(hub.iterdir()) == [hub / "y.pth"]


def test_zeros_that_a_power_loss_left_in_a_partial_file_are_detected(
    server: FaultServer, hub: Path
) -> None:
    left = killed_midway(server, hub, 300_000)
    left.write_bytes(BODY[:200_000] + bytes(100_000))
    assert download(f"{server.url}/{FILE}").read_bytes() == BODY
    assert [request.range for request in server.asked] == [None, "bytes=299999-", None]
    assert list(hub.iterdir()) == [hub / FILE]


def test_a_partial_file_of_another_writer_is_removed_only_once_it_is_old(
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
def test_a_process_that_dies_at_any_system_call_leaves_no_truncated_file(
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
