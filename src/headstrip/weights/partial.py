"""The unfinished file of a download, and the lock that gives it a single writer."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from headstrip.printable import printable
from headstrip.system.atomic import is_abandoned, sync_folder
from headstrip.system.file_lock import file_lock

if TYPE_CHECKING:
    from filelock import BaseFileLock

_DIGITS = 16
_DIGEST = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")
_PATIENCE = 3.0
# File systems that cannot sync answer with these. Their data is as safe as they make it.
_CANNOT_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, getattr(errno, "ENOTSUP", 0))


@contextmanager
def single_writer(target: Path) -> Iterator[bool]:
    """Hold the lock beside ``target`` while another process waits for it.

    Yields:
        Whether this is the only writer. It is not where the file system has no locks or grants
        the same lock twice, or where the holder stalls: such a download works alone, in a file
        that no other process uses.
    """
    lock = _acquired(target)
    try:
        yield lock is not None and _excludes(lock)
    finally:
        if lock is not None:
            # While the lock is held: a process that waits for it sees that the file is gone.
            with suppress(OSError):
                os.unlink(lock.lock_file)
            with suppress(OSError):
                lock.release()


def _acquired(target: Path) -> BaseFileLock | None:
    """Wait for the lock. Return None where there are no locks, or where waiting is of no use."""
    from filelock import Timeout

    lock = file_lock(f"{target}.lock")
    has_printed = False
    while True:
        try:
            lock.acquire(timeout=_PATIENCE, poll_interval=0.1)
            with suppress(OSError):
                os.utime(lock.lock_file)
            return lock
        except Timeout:
            newest = max((stat.st_mtime for _, stat in _beside(target)), default=time.time())
            if target.is_file() or is_abandoned(newest):
                return None
            if not has_printed and sys.stderr is not None:
                message = f"waiting for another process, which downloads {printable(str(target))}."
                print(f"headstrip: {message}", file=sys.stderr, flush=True)
            has_printed = True
        # A read-only folder, no locks on this file system, or a thread that waits for itself.
        except (OSError, RuntimeError):
            with suppress(OSError):
                os.unlink(lock.lock_file)
            return None


def _excludes(lock: BaseFileLock) -> bool:
    """Whether a second lock on the same file is refused: some network file systems grant it."""
    from filelock import Timeout

    second = file_lock(lock.lock_file)
    try:
        second.acquire(timeout=0)
    except (Timeout, OSError, RuntimeError):
        return True
    with suppress(OSError):
        second.release()
    return False


def digest_of(url: str, validator: str, total: int | None) -> str:
    """Return 16 digits that identify a file on a server, "" where it cannot be identified.

    Args:
        url: Its address.
        validator: Its ``ETag`` or ``Last-Modified``.
        total: Its size in bytes.
    """
    if not validator or total is None:
        return ""
    return hashlib.sha256(f"{url}\n{validator}\n{total}".encode()).hexdigest()[:_DIGITS]


class Partial:
    """A file that is being written. Its name says which file on a server it is a part of."""

    def __init__(self, path: Path, digest: str, mode: Literal["r+b", "x+b"]) -> None:
        """Open it. Call ``create`` or ``resume`` instead."""
        self.path = path
        self.digest = digest
        self.resumed = mode == "r+b"
        self._file = open(path, mode, buffering=0)  # noqa: SIM115  (`close` closes it)

    @classmethod
    def create(cls, target: Path, digest: str, *, is_alone: bool) -> Partial:
        """Create an empty one for the file ``target``.

        Args:
            target: The final name.
            digest: What `digest_of` returns.
            is_alone: Whether this is the only writer. Else no other process ever opens the file.
        """
        part = (is_alone and digest) or secrets.token_hex(4)
        path = target.with_name(f"{target.name}.{part}.partial")
        return cls(path, digest, "x+b")

    @classmethod
    def resume(cls, target: Path) -> Partial | None:
        """Open the largest file that can be continued and remove the others; needs the lock."""
        found: Partial | None = None
        for path, stat, digest in sorted(_unfinished(target), key=lambda each: -each[1].st_size):
            if found is None and digest and stat.st_size:
                with suppress(OSError):
                    found = cls(path, digest, "r+b")
                    continue
            # One without a digest may be of a process that found no lock.
            if digest or is_abandoned(stat.st_mtime):
                with suppress(OSError):
                    os.unlink(path)
        return found

    @property
    def size(self) -> int:
        """How many bytes are in it."""
        return os.fstat(self._file.fileno()).st_size

    def begin_at(self, start: int) -> None:
        """Cut it off at ``start``, and write from there on."""
        self.resumed = start > 0
        os.ftruncate(self._file.fileno(), start)
        self._file.seek(start)

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._file.fileno(), view) :]

    def synced(self) -> BinaryIO:
        """Put its bytes on the disk, and return it for reading."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
        return cast(BinaryIO, self._file)

    def publish(self, target: Path) -> None:
        """Give it its final name."""
        self.close()
        try:
            os.replace(self.path, target)
        except OSError:
            # Without locks another process may have been faster, and Windows does not replace a
            # file that is in use.
            if not target.is_file():
                raise
            self.discard()
        sync_folder(target.parent)

    def close(self) -> None:
        """Close it and keep it, for ``resume``."""
        self._file.close()

    def discard(self) -> None:
        """Remove it."""
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            os.unlink(self.path)


def _unfinished(target: Path) -> Iterator[tuple[Path, os.stat_result, str]]:
    """Yield the unfinished files of ``target``, what they are like, and their digests."""
    for path, stat in _beside(target):
        if path.suffix == ".partial":
            part = path.stem.removeprefix(f"{target.name}.")
            yield path, stat, part if _DIGEST.fullmatch(part) else ""


def _beside(target: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files beside ``target`` whose names begin with its name."""
    with suppress(OSError):
        for path in list(target.parent.iterdir()):
            if path.name.startswith(f"{target.name}."):
                with suppress(OSError):
                    yield path, path.stat()
