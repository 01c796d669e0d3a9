"""Map files into memory, copy-on-write: the system reads a page when it is used.

A process that writes to a mapped tensor changes its own memory and never the file. But a process
that rewrites the file in place changes the tensors, because an unchanged page shows the current
bytes of the file. A `Guard` notices that. A process that renames another file over the mapped one
changes nothing, because the mapping keeps the old file.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
import weakref
from pathlib import Path
from typing import BinaryIO, cast

import torch

from headstrip.errors import WeightsError

_MOUNTS = Path("/proc/self/mountinfo")
_OFF = {"0", "false", "no", "off"}
# On a file system of the network, a lost server ends a process that reads a mapped file.
_REMOTE = (
    "9p acfs afs auristorfs beegfs ceph cifs coda cvmfs davfs gfs gfs2 glusterfs gpfs kafs lustre "
    "mmfs ncpfs nfs nfs3 nfs4 ocfs2 orangefs panfs prl_fs pvfs2 smb smb2 smb3 smbfs vboxsf vmhgfs "
    "weka wekafs"
)
# A program serves a FUSE file system. These programs serve a disk of this machine.
_LOCAL_FUSE = {"fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ntfs-3g", "fuse.exfat"}
_CHUNK = 1 << 20
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Guard:
    """Notices that a mapped file was rewritten in place.

    Attributes:
        sha256: The sha256 of the file when it was mapped, or "" if it is unknown.

    A guard keeps the file open as long as it lives. Copying or pickling an object with a guard
    copies the tensors, so the copy has None instead of a guard.
    """

    def __init__(self, descriptor: int, size: int, mtime_ns: int, path: Path) -> None:
        """Watch an open file.

        Args:
            descriptor: A descriptor of the file. The guard closes it.
            size: The size of the file in bytes when it was mapped.
            mtime_ns: The time of its last change at that moment, in nanoseconds.
            path: The path of the file, for messages.
        """
        self._descriptor = descriptor
        self._expected = (size, mtime_ns)
        self._path = path
        self.sha256 = ""
        weakref.finalize(self, os.close, descriptor).atexit = False

    def check(self) -> None:
        """Check that the file did not change since it was mapped.

        If only its time differs, and the earlier sha256 is known, the guard hashes the file again.

        Raises:
            WeightsError: The file changed.
        """
        try:
            now = os.fstat(self._descriptor)
        except OSError:
            # The program closed all descriptors, as a daemon does. The file cannot be checked.
            return
        size, mtime_ns = self._expected
        if (now.st_size, now.st_mtime_ns) != self._expected and not self._has_same_bytes(now):
            raise WeightsError(
                f"The file {self._path} was rewritten in place while it was in use: it had "
                f"{_shown(size, mtime_ns)}; it now has {_shown(now.st_size, now.st_mtime_ns)}. "
                "Load it again. To replace a file safely, write another one and rename it, or "
                "leave out map=True (HEADSTRIP_MAP=0)."
            )

    def _has_same_bytes(self, now: os.stat_result) -> bool:
        if now.st_size != self._expected[0] or not self.sha256:
            return False
        digest, at = hashlib.sha256(), 0
        while chunk := os.pread(self._descriptor, _CHUNK, at):
            digest.update(chunk)
            at += len(chunk)
        if digest.hexdigest() != self.sha256:
            return False
        self._expected = (now.st_size, now.st_mtime_ns)
        return True

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _shown(size: int, mtime_ns: int) -> str:
    second = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(mtime_ns // 10**9))
    return f"{size:,} bytes from {second}.{mtime_ns // 1000 % 10**6:06d} UTC"


def guard(path: Path, file: BinaryIO) -> Guard:
    """Return a guard for an open file in its current state."""
    descriptor = os.dup(file.fileno())
    stat = os.fstat(descriptor)
    return Guard(descriptor, stat.st_size, stat.st_mtime_ns, path)


def descriptor_path(file: BinaryIO) -> str | None:
    """Return a path that opens exactly this open file, even if its name was given to another file.

    Return None if the system does not have such paths.
    """
    opened = os.fstat(file.fileno())
    for folder in ("/proc/self/fd", "/dev/fd"):
        path = f"{folder}/{file.fileno()}"
        try:
            same = os.path.samestat(os.stat(path), opened)
        except OSError:
            continue
        if same:
            return path
    return None


def map_file(file: BinaryIO) -> torch.UntypedStorage | None:
    """Map an open file, copy-on-write. The caller may close the file afterwards.

    Returns:
        The bytes of the file, or None if the system cannot map it.
    """
    path = descriptor_path(file)
    size = os.fstat(file.fileno()).st_size
    if path is None or size == 0:
        return None
    storage = torch.UntypedStorage.from_file(path, shared=False, nbytes=size)
    return cast(torch.UntypedStorage, storage)


def may_map(path: Path, table: str | None = None) -> bool:
    """Return whether to map a file: not if ``HEADSTRIP_MAP=0``, and not over a network.

    Only Linux says which file system a file is on. On other systems the function allows mapping.

    Args:
        path: The file.
        table: The mounted file systems in the format of ``/proc/self/mountinfo``. Default: those
            of this process.
    """
    if os.environ.get("HEADSTRIP_MAP", "").strip().lower() in _OFF:
        return False
    if table is None:
        if not sys.platform.startswith("linux"):
            return True
        try:
            table = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return True
    kind = _file_system(os.path.realpath(path), table)
    return kind not in _REMOTE.split() and (not kind.startswith("fuse") or kind in _LOCAL_FUSE)


def _file_system(path: str, table: str) -> str:
    """Return the type of a path's file system. Of two mounts at one point, the last one counts."""
    longest, kind = "", ""
    for line in table.splitlines():
        mount, separator, described = line.partition(" - ")
        fields, types = mount.split(" "), described.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(longest):
            longest, kind = point, types[0]
    return kind
