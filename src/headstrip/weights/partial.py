"""The file beside its final name that a download is written to, and goes on with after a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from headstrip.system.atomic import sync_folder

_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# A writer gives up long before, when nothing comes.
_UNTOUCHED = 3600.0
_MOMENT, _MOMENTS = 0.05, 20
# What file systems answer that cannot do it: their data is as safe as they make it.
_CANNOT_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, getattr(errno, "ENOTSUP", 0))

# Those that this process writes now.
_live: set[str] = set()


def digest_of(url: str, validator: str, total: int | None) -> str:
    """Return 16 digits by which a file on a server is recognised, "" where it cannot be.

    Args:
        url: Its address.
        validator: Its ``ETag`` or ``Last-Modified``.
        total: Its size.
    """
    if not validator or total is None:
        return ""
    return hashlib.sha256(f"{url}\n{validator}\n{total}".encode()).hexdigest()[:16]


class Partial:
    """A file that is being written. Its name tells whose it is, and what it is a part of."""

    def __init__(self, path: Path, digest: str, flags: int) -> None:
        """Open it; use ``create`` or ``adopt``."""
        self.path = path
        self.digest = digest
        self.resumed = False
        _live.add(path.name)
        try:
            self._fd = os.open(path, _FLAGS | flags, 0o666)
        except BaseException:
            _live.discard(path.name)
            raise

    @classmethod
    def create(cls, target: Path, digest: str) -> Partial:
        """Create an empty one for the file ``target``."""
        return cls(_own_name(target, digest), digest, os.O_CREAT | os.O_EXCL)

    @classmethod
    def adopt(cls, target: Path) -> Partial | None:
        """Go on with the longest that a process left which is gone; remove its others."""
        _let_end(target)
        adopted: Partial | None = None
        for path, digest in sorted(leftovers(target), key=lambda each: -_size(each[0])):
            if adopted is None and digest and _size(path):
                with suppress(OSError):
                    adopted = cls._taken(path, target, digest)
                    continue
            with suppress(OSError):
                os.unlink(path)
        return adopted

    @classmethod
    def _taken(cls, path: Path, target: Path, digest: str) -> Partial:
        own = _own_name(target, digest)
        # Of two processes that try, one renames it, and the other finds none.
        os.rename(path, own)
        partial = cls(own, digest, 0)
        partial.resumed = True
        return partial

    @property
    def size(self) -> int:
        """How many bytes are in it."""
        return os.fstat(self._fd).st_size

    @property
    def is_of_use(self) -> bool:
        """Whether a later call can go on with it."""
        return bool(self.digest) and _size(self.path) > 0

    def begin_at(self, start: int) -> None:
        """Cut it off at ``start``, and write from there on."""
        self.resumed = start > 0
        os.ftruncate(self._fd, start)
        os.lseek(self._fd, start, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def synced(self) -> BinaryIO:
        """Return the file to read from, its bytes on the disk. Closing it closes nothing else."""
        _sync(self._fd)
        return os.fdopen(self._fd, "rb", buffering=0, closefd=False)

    def publish(self, target: Path) -> None:
        """Give it its final name."""
        self.close()
        try:
            os.replace(self.path, target)
        except OSError:
            # Where locks lie another process may have been faster, and Windows does not replace a
            # file that is in use.
            if not target.is_file():
                raise
            self.discard()
        sync_folder(target.parent)

    def close(self) -> None:
        """Leave it as it is, for ``adopt``."""
        _live.discard(self.path.name)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def discard(self) -> None:
        """Remove it."""
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            os.unlink(self.path)


def leftovers(target: Path) -> Iterator[tuple[Path, str]]:
    """Yield what is left of a file by processes that are gone, each with its digest."""
    for path, match in _partials(target):
        if _is_gone(path, match["host"], match["pid"]):
            yield path, match["digest"]


def _partials(target: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    form = re.compile(
        re.escape(target.name)
        + r"\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.(?P<digest>[0-9a-f]*)\.partial"
    )
    for path in _entries(target.parent):
        match = form.fullmatch(path.name)
        if match:
            yield path, match


def _let_end(target: Path) -> None:
    """Give whoever writes a part of a file a moment, if it is about to end.

    The system takes the lock of a process that was killed before it takes the process.
    """
    for _ in range(_MOMENTS):
        if all(
            path.name in _live or match["host"] != _host() or not _is_running(int(match["pid"]))
            for path, match in _partials(target)
        ):
            return
        time.sleep(_MOMENT)


def last_change(target: Path) -> float:
    """Return when the newest file was changed that begins like ``target``; now without any."""
    found = [path for path in _entries(target.parent) if path.name.startswith(f"{target.name}.")]
    return max(map(_changed, found), default=time.time())


def _own_name(target: Path, digest: str) -> Path:
    parts = (target.name, _host(), str(os.getpid()), secrets.token_hex(4), digest, "partial")
    return target.with_name(".".join(parts))


def _host() -> str:
    # Not `socket.gethostname`: who listens for sockets hears it.
    return re.sub(r"[^\w-]", "_", platform.node(), flags=re.ASCII)[:32] or "_"


def _is_gone(path: Path, host: str, pid: str) -> bool:
    if path.name in _live:
        return False
    if host == _host() and (pid == str(os.getpid()) or not _is_running(int(pid))):
        return True
    return time.time() - _changed(path) > _UNTOUCHED


def _is_running(pid: int) -> bool:
    # There a signal ends the process; but there, a file that is open cannot be renamed either.
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has asked how, where the system says so."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # The name, in parentheses, may hold any bytes.
    return stat.rpartition(b")")[2].split()[:1] == [b"Z"]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
