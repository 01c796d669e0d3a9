"""Files mapped into memory, copy-on-write: nothing is read before it is used, and nothing copied.

Writing to a mapped tensor changes this process's memory and never the file. The reverse is not
true: a page that was not written to shows the present bytes of the file, so a process that rewrites
the file in place changes the tensors. A `Guard` notices that. A file that is renamed over the
mapped one changes nothing: the mapping keeps the old one.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import weakref
from pathlib import Path
from typing import BinaryIO, cast

import torch

from headstrip.errors import WeightsError

_MOUNTS = Path("/proc/self/mountinfo")
_OFF = {"0", "false", "no", "off"}
# A file that is cut short, or a server that is gone, ends a process that reads its mapping there.
_REMOTE = (
    "9p acfs afs auristorfs beegfs ceph cifs coda cvmfs davfs gfs gfs2 glusterfs gpfs kafs lustre "
    "mmfs ncpfs nfs nfs3 nfs4 ocfs2 orangefs panfs prl_fs pvfs2 smb smb2 smb3 smbfs vboxsf vmhgfs "
    "weka wekafs"
)
# Of the file systems that a program serves, these are known to be of this machine's disks.
_LOCAL_FUSE = {"fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ntfs-3g", "fuse.exfat"}
_CHUNK = 1 << 20
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Guard:
    """Notices that a mapped file was rewritten in place.

    Attributes:
        sha256: What the file's bytes were, empty where that is not known.

    It keeps a descriptor of the file open for as long as it lives. Copies and pickles of what
    holds it have copies of the tensors, and None for the guard.
    """

    def __init__(self, descriptor: int, size: int, mtime_ns: int, path: Path) -> None:
        """Watch an open file.

        Args:
            descriptor: A descriptor of the file, the guard's own from now on.
            size: Its bytes when it was mapped.
            mtime_ns: Its time of modification then.
            path: Its name, for messages.
        """
        self._descriptor = descriptor
        self._expected = (size, mtime_ns)
        self._path = path
        self.sha256 = ""
        weakref.finalize(self, os.close, descriptor).atexit = False

    def check(self) -> None:
        """Compare the file with what was mapped.

        Where its time alone is another, its bytes are hashed, if it is known what they were.

        Raises:
            WeightsError: It has another size or time of modification now, and other bytes.
        """
        try:
            now = os.fstat(self._descriptor)
        except OSError:
            # Somebody closed all descriptors, as a daemon does: nothing can be said any more.
            return
        size, mtime_ns = self._expected
        if (now.st_size, now.st_mtime_ns) != self._expected and not self._is_as_it_was(now):
            raise WeightsError(
                f"The file {self._path} was rewritten in place while it was in use: it had "
                f"{size} bytes of time {mtime_ns}, and has {now.st_size} of time "
                f"{now.st_mtime_ns}. Load it again; to replace a file safely write "
                "another and rename it, or leave out map=True (HEADSTRIP_MAP=0)."
            )

    def _is_as_it_was(self, now: os.stat_result) -> bool:
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


def guard(path: Path, file: BinaryIO) -> Guard:
    """Return a guard of an open file in its present state."""
    descriptor = os.dup(file.fileno())
    stat = os.fstat(descriptor)
    return Guard(descriptor, stat.st_size, stat.st_mtime_ns, path)


def descriptor_path(file: BinaryIO) -> str | None:
    """Return a path that opens the very file that is open, whatever its name leads to by now.

    None where the system has no such paths.
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
    """Map an open file, copy-on-write. It may be closed afterwards.

    Returns:
        Its bytes, or None where the system cannot map it.
    """
    path = descriptor_path(file)
    size = os.fstat(file.fileno()).st_size
    if path is None or size == 0:
        return None
    storage = torch.UntypedStorage.from_file(path, shared=False, nbytes=size)
    return cast(torch.UntypedStorage, storage)


def may_map(path: Path, table: str | None = None) -> bool:
    """Whether a file should be mapped: not where that is switched off, nor over a network.

    On Linux the file system is known. Elsewhere every file may be mapped that can be.

    Args:
        path: The file.
        table: The mounted file systems as ``/proc/self/mountinfo`` prints them, by default those
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
    """Return the type of the file system that a path is in; of two mounts at one point the last."""
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
