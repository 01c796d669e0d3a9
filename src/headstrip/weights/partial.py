"""The partial file of a download, and the lock that allows one writer."""

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
# A file system that cannot sync gives one of these errors.
_CANNOT_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, getattr(errno, "ENOTSUP", 0))


@contextmanager
def single_writer(target: Path) -> Iterator[bool]:
    """Wait for the lock beside ``target``, and hold it.

    Yields:
        Whether this process is the only writer. It is False if the file system has no locks or
        grants one lock twice, or if the process with the lock stalls. Then the download uses a
        partial file that no other process uses.
    """
    lock = _acquired(target)
    try:
        yield lock is not None and _excludes(lock)
    finally:
        if lock is not None:
            # Remove it before the release, so that a waiting process notices the removal.
            with suppress(OSError):
                os.unlink(lock.lock_file)
            with suppress(OSError):
                lock.release()


def _acquired(target: Path) -> BaseFileLock | None:
    """Wait for the lock. Return None if there are no locks, or if waiting does not help."""
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
                message = f"waiting for another process that downloads {printable(str(target))}"
                print(f"headstrip: {message}", file=sys.stderr, flush=True)
            has_printed = True
        # The folder is read-only, the file system has no locks, or this thread has the lock.
        except (OSError, RuntimeError):
            with suppress(OSError):
                os.unlink(lock.lock_file)
            return None


def _excludes(lock: BaseFileLock) -> bool:
    """Return whether the system refuses a second lock. Some network file systems grant it."""
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
    """Return 16 digits that identify a file on a server, or "" if nothing identifies it.

    Args:
        url: The address of the file.
        validator: The ``ETag`` or ``Last-Modified`` of the file.
        total: The size of the file in bytes.
    """
    if not validator or total is None:
        return ""
    return hashlib.sha256(f"{url}\n{validator}\n{total}".encode()).hexdigest()[:_DIGITS]


class Partial:
    """A partial file. Its name contains the digits that identify the file on the server."""

    def __init__(self, path: Path, digest: str, mode: Literal["r+b", "x+b"]) -> None:
        """Open the file. Callers use ``create`` or ``resume``."""
        self.path = path
        self.digest = digest
        self.resumed = mode == "r+b"
        self._file = open(path, mode, buffering=0)  # noqa: SIM115  (`close` closes it)

    @classmethod
    def create(cls, target: Path, digest: str, *, is_alone: bool) -> Partial:
        """Create an empty partial file for ``target``.

        Args:
            target: The final path of the file.
            digest: The result of `digest_of`.
            is_alone: Whether this process is the only writer. Otherwise the file gets a random
                name, and no other process opens it.
        """
        part = (is_alone and digest) or secrets.token_hex(4)
        path = target.with_name(f"{target.name}.{part}.partial")
        return cls(path, digest, "x+b")

    @classmethod
    def resume(cls, target: Path) -> Partial | None:
        """Open the largest partial file that can be resumed, and remove the others.

        The caller must have the lock.
        """
        found: Partial | None = None
        for path, stat, digest in sorted(_unfinished(target), key=lambda each: -each[1].st_size):
            if found is None and digest and stat.st_size:
                with suppress(OSError):
                    found = cls(path, digest, "r+b")
                    continue
            # A process without the lock may still write to a file without a digest.
            if digest or is_abandoned(stat.st_mtime):
                with suppress(OSError):
                    os.unlink(path)
        return found

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def begin_at(self, start: int) -> None:
        """Truncate the file to ``start`` bytes, and write after them."""
        self.resumed = start > 0
        os.ftruncate(self._file.fileno(), start)
        self._file.seek(start)

    def write(self, data: bytes) -> None:
        """Write all bytes of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._file.fileno(), view) :]

    def synced(self) -> BinaryIO:
        """Flush the bytes to the disk, and return the open file for reading."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
        return cast(BinaryIO, self._file)

    def publish(self, target: Path) -> None:
        """Rename the file to its final name."""
        self.close()
        try:
            os.replace(self.path, target)
        except OSError:
            # Without locks, another process may have been faster.
            if not target.is_file():
                raise
            self.discard()
        sync_folder(target.parent)

    def close(self) -> None:
        """Close the file and keep it, so that ``resume`` can open it."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            os.unlink(self.path)


def _unfinished(target: Path) -> Iterator[tuple[Path, os.stat_result, str]]:
    """Yield the partial files of ``target``, with their stat and their digests."""
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
