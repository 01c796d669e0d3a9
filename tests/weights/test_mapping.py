"""headstrip never changes a mapped file, maps the open one, and detects changes to it."""

from __future__ import annotations

import copy
import mmap
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from tests.weights.files import SAVERS, contents, identical, save_safetensors, save_zip

from headstrip import WeightsError
from headstrip.weights.mapping import Guard, guard, map_file, may_map
from headstrip.weights.optimized import optimize

pytestmark = pytest.mark.skipif(
    not hasattr(mmap, "MAP_PRIVATE"), reason="this system cannot map files privately"
)
STATE = {"weight": torch.arange(4096.0), "bias": torch.arange(16.0)}
TABLE = """\
21 1 254:0 / / rw,noatime - ext4 /dev/vda rw
30 21 0:30 / /home rw - autofs systemd-1 rw
31 30 0:31 / /home rw - nfs4 server:/home rw
32 31 0:32 / /home/of/scratch rw shared:1 - xfs /dev/vdb rw
33 21 0:33 / /mnt/my\\040disk rw - cifs //server/disk rw
34 21 0:34 / /data rw master:1 - fuse.sshfs user@host: rw
a line of another kind
"""


@pytest.fixture(params=["zip", "safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> Path:
    """A file in each of the two formats that can be mapped."""
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))
    saved = SAVERS[request.param](STATE, tmp_path / "x")
    return saved if request.param == "zip" else optimize(saved)


def test_an_aligned_file_is_mapped_completely(path: Path) -> None:
    parsed = contents(path, mapped=True)
    assert parsed.mapped_bytes == sum(value.nbytes for value in STATE.values())
    assert all(identical(parsed.content[key], value) for key, value in STATE.items())


def test_a_file_that_is_not_mapped_has_no_guard(path: Path) -> None:
    parsed = contents(path, mapped=False)
    assert (parsed.guard, parsed.mapped_bytes) == (None, 0)


def test_writing_to_a_mapped_tensor_never_changes_the_file(path: Path) -> None:
    before = path.read_bytes()
    parsed = contents(path, mapped=True)
    for tensor in parsed.content.values():
        tensor.fill_(7)
    assert path.read_bytes() == before
    parsed.guard.check()
    assert identical(contents(path, mapped=True).content["bias"], STATE["bias"])


def test_the_shared_mapping_setting_of_torch_is_ignored(path: Path) -> None:
    before = path.read_bytes()
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        contents(path, mapped=True).content["weight"].zero_()
        assert torch.serialization.get_default_mmap_options() == mmap.MAP_SHARED
    assert path.read_bytes() == before


def test_the_mapped_file_is_the_opened_one_even_if_its_path_is_replaced(
    path: Path, tmp_path: Path
) -> None:
    other = save_zip({"weight": torch.zeros(4096)}, tmp_path / "other")
    with open(path, "rb") as file:
        os.replace(other, path)
        storage = map_file(file)
        file.seek(0)
        assert bytes(torch.empty(0, dtype=torch.uint8).set_(storage)[:64].tolist()) == file.read(64)


def test_a_mapped_tensor_stays_valid_after_its_file_is_deleted(path: Path) -> None:
    content = contents(path, mapped=True).content
    path.unlink()
    assert identical(content["weight"], STATE["weight"])


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def append(path: Path) -> None:
    stat = path.stat()
    with open(path, "ab") as file:
        file.write(b"more")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [rewrite, append, os.utime])
def test_a_mapped_file_that_is_rewritten_in_place_gives_an_error(path: Path, change) -> None:
    parsed = contents(path, mapped=True)
    os.utime(path, ns=(0, 0)) if change is os.utime else change(path)
    with pytest.raises(
        WeightsError, match=r"rewritten in place .* it had [\d,]+ bytes .*rename it"
    ):
        parsed.guard.check()


def test_replacing_or_deleting_a_mapped_file_is_not_an_error(path: Path, tmp_path: Path) -> None:
    parsed = contents(path, mapped=True)
    os.replace(save_zip({"a": torch.zeros(1)}, tmp_path / "other"), path)
    parsed.guard.check()
    assert identical(parsed.content["weight"], STATE["weight"])
    path.unlink()
    parsed.guard.check()


def test_a_guard_closes_its_file_when_it_is_deleted(path: Path) -> None:
    with open(path, "rb") as file:
        descriptor = os.dup(file.fileno())
    watch = Guard(descriptor, path.stat().st_size, path.stat().st_mtime_ns, path)
    watch.check()
    del watch
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda held: pickle.loads(pickle.dumps(held))])
def test_a_copied_or_pickled_guard_is_none(path: Path, copied) -> None:
    with open(path, "rb") as file:
        held = {"guard": guard(path, file)}
    assert copied(held) == {"guard": None}


def test_an_empty_file_is_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file:
        assert map_file(file) is None


def test_a_file_with_only_empty_tensors_has_no_guard(tmp_path: Path) -> None:
    path = save_safetensors({"a": torch.zeros(0, 3)}, tmp_path / "x")
    parsed = contents(path, mapped=True)
    assert parsed.guard is None
    assert parsed.content["a"].shape == (0, 3)


@pytest.mark.parametrize(
    ("path", "mapped"),
    [
        ("/x.pth", True),
        ("/home/x.pth", False),
        ("/homework/x.pth", True),
        ("/data/x.pth", False),
        ("/home/of/scratch/x.pth", True),
        ("/home/of/scratching", False),
        ("/home", False),
        ("/mnt/my disk/x.pth", False),
        ("/mnt/x.pth", True),
    ],
)
def test_the_innermost_and_last_mount_decides_if_a_file_is_mapped(path: str, mapped: bool) -> None:
    assert may_map(Path(path), TABLE) is mapped


@pytest.mark.parametrize(
    ("kind", "mapped"),
    [
        ("ext4", True),
        ("xfs", True),
        ("btrfs", True),
        ("overlay", True),
        ("tmpfs", True),
        ("zfs", True),
        ("fuseblk", True),
        ("fuse.fuse-overlayfs", True),
        ("nfs", False),
        ("nfs4", False),
        ("cifs", False),
        ("smb3", False),
        ("9p", False),
        ("lustre", False),
        ("gpfs", False),
        ("ceph", False),
        ("afs", False),
        ("beegfs", False),
        ("fuse", False),
        ("fuse.sshfs", False),
        ("fuse.gcsfuse", False),
        ("fuse.s3fs", False),
        ("fuse.rclone", False),
    ],
)
def test_files_on_network_file_systems_are_not_mapped(kind: str, mapped: bool) -> None:
    assert may_map(Path("/a/x.pth"), f"1 0 0:1 / / rw - {kind} source rw\n") is mapped


def test_the_target_of_a_link_decides_if_it_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/home/x.pth")
    table = f"{TABLE}40 21 0:40 / {os.path.realpath(tmp_path)} rw - ext4 /dev/vdc rw\n"
    assert may_map(tmp_path / "file", table)
    assert not may_map(tmp_path / "link", table)


@pytest.mark.parametrize(
    ("value", "mapped"), [("0", False), ("off", False), ("1", True), ("", True)]
)
def test_headstrip_map_switches_mapping_off(value: str, mapped: bool, monkeypatch) -> None:
    monkeypatch.setenv("HEADSTRIP_MAP", value)
    assert may_map(Path("/x.pth"), TABLE) is mapped


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a mount table")
def test_the_mount_table_of_this_machine_can_be_read() -> None:
    assert may_map(Path("/dev/shm/x.pth"))
