"""headstrip handles a cache that is read-only, full or failing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.children import Children
from tests.failing import failing
from tests.servers import FaultServer, Reply

from headstrip import WeightsError
from headstrip.weights.downloading import download

BODY = bytes(range(256)) * 4096
SHA = hashlib.sha256(BODY).hexdigest()
FILE = f"x-{SHA[:8]}.pth"


@pytest.fixture
def server(faults: FaultServer) -> FaultServer:
    """A server that has the file."""
    faults.put(f"/{FILE}", BODY)
    return faults


@pytest.fixture
def mount(hub: Path) -> Iterator[Callable[[str], None]]:
    """Return a function that mounts a tmpfs with the given options on torch hub's folder."""

    def mounted(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(hub)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root can mount file systems, and only on Linux")

    yield mounted
    if os.path.ismount(hub):
        subprocess.run(["umount", str(hub)], check=True)


def test_the_error_names_a_read_only_cache_and_the_missing_file(
    server: FaultServer, hub: Path, mount: Callable[[str], None]
) -> None:
    mount("ro,size=64k")
    with pytest.raises(WeightsError) as caught:
        download(f"{server.url}/{FILE}")
    for part in (
        f"downloaded to {hub} (headstrip cannot write to this folder",
        "Read-only file system",
        "the file has 1.0 MB",
        "Set TORCH_HOME",
        str(hub / FILE),
    ):
        assert part in str(caught.value)


def test_a_file_in_a_read_only_cache_is_used(
    server: FaultServer, hub: Path, mount: Callable[[str], None]
) -> None:
    mount("size=2m")
    (hub / FILE).write_bytes(BODY)
    subprocess.run(["mount", "-o", "remount,ro", hub], check=True)
    assert download(f"{server.url}/{FILE}") == hub / FILE
    assert server.asked == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root ignores permissions")
def test_the_error_names_a_cache_without_write_permission(server: FaultServer, hub: Path) -> None:
    hub.chmod(0o555)
    with pytest.raises(WeightsError, match=r"cannot write to .*Permission denied.*TORCH_HOME"):
        download(f"{server.url}/{FILE}")
    hub.chmod(0o755)


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_the_error_names_a_cache_that_cannot_be_created(
    server: FaultServer, hub: Path, error: int
) -> None:
    hub.rmdir()
    with (
        failing("mkdir", at=0, error=error),
        pytest.raises(WeightsError, match=rf"to {hub} \(headstrip cannot write .*TORCH_HOME"),
    ):
        download(f"{server.url}/{FILE}")


def test_a_disk_with_too_little_space_is_detected_before_writing(
    server: FaultServer, hub: Path, mount: Callable[[str], None]
) -> None:
    mount("size=512k")
    with failing(at=None) as calls, pytest.raises(WeightsError) as caught:
        download(f"{server.url}/{FILE}")
    for part in (
        f"to {hub} (the disk of this folder is full, with 0.5 MB free; the file has 1.0 MB)",
        "Make room, or set TORCH_HOME",
    ):
        assert part in str(caught.value)
    assert "write" not in calls.seen
    assert list(hub.iterdir()) == []


def test_the_error_names_a_disk_that_fills_up_and_the_partial_file_is_removed(
    server: FaultServer, hub: Path, mount: Callable[[str], None]
) -> None:
    mount("size=512k")
    server.usual = Reply(chunked=True)
    with pytest.raises(WeightsError, match=r"the disk of this folder is full.*Make room"):
        download(f"{server.url}/{FILE}")
    assert list(hub.iterdir()) == []
    assert shutil.disk_usage(hub).free == 512 << 10


@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_a_file_above_the_size_limit_of_the_process_gives_a_clear_error(
    server: FaultServer, hub: Path
) -> None:
    with Children() as children:
        ended = children.run(
            "headstrip.weights.downloading:download",
            f"{server.url}/{FILE}",
            before="tests.children:small_files_only",
        )
    assert ended.error
    assert ended.error.startswith(f"WeightsError: {server.url}/{FILE} could not be downloaded")
    assert "the disk of this folder is full" in ended.error
    assert list(hub.iterdir()) == []


@contextlib.contextmanager
def collecting_errors(messages: list[str]) -> Iterator[None]:
    """Append the message of a WeightsError, if the block raises one."""
    try:
        yield
    except WeightsError as error:
        messages.append(str(error))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "failing"])
def test_a_failing_system_call_leaves_no_truncated_file_and_the_next_call_succeeds(
    server: FaultServer, hub: Path, error: int
) -> None:
    messages = []
    for at in itertools.count():
        with failing(at=at, error=error) as calls, collecting_errors(messages):
            download(f"{server.url}/{FILE}")
        if (hub / FILE).exists():
            assert (hub / FILE).read_bytes() == BODY
        assert download(f"{server.url}/{FILE}").read_bytes() == BODY
        assert [path for path in hub.iterdir() if path.suffix != ".lock"] == [hub / FILE]
        if not calls.hit:
            break
        (hub / FILE).unlink()
    assert {"open", "write"} <= set(calls.seen)
    assert calls.seen.index("fsync") < calls.seen.index("replace")
    is_full = error == errno.ENOSPC
    problem = "the disk of this folder is full" if is_full else "writing to this folder failed"
    assert len(messages) >= 4
    assert all(f"to {hub} (" in each and problem in each for each in messages)
