"""One download for all processes that want the same file: the others wait."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from headstrip.printable import printable
from headstrip.weights.partial import last_change

if TYPE_CHECKING:
    from filelock import BaseFileLock

_PATIENCE = 3.0
# Where whoever holds the lock has written nothing for so long, it is not waited for any more.
_STALLED = 600.0


@contextmanager
def one_at_a_time(target: Path) -> Iterator[None]:
    """Hold the lock beside ``target``, if there can be one.

    It saves work, and nothing depends on it: a file system without locks, or one whose locks do
    not hold, costs a second download.
    """
    lock = _acquired(target)
    try:
        yield
    finally:
        if lock is not None:
            # While it is held: whoever waits for it sees that it is gone, and makes another.
            with suppress(OSError):
                os.unlink(lock.lock_file)
            with suppress(OSError):
                lock.release()


def _acquired(target: Path) -> BaseFileLock | None:
    """Wait for the lock; None where there is none to be had, or none is needed any more."""
    from filelock import FileLock, Timeout

    name = f"{target}.lock"
    # A lock that is a file, there or not, would outlive its holder. Old releases have none.
    known = "fallback_to_soft" in signature(FileLock.__init__).parameters
    lock = FileLock(name, fallback_to_soft=False) if known else FileLock(name)
    said = False
    while True:
        try:
            lock.acquire(timeout=_PATIENCE, poll_interval=0.1)
            with suppress(OSError):
                os.utime(name)
            return lock
        except Timeout:
            if target.is_file() or time.time() - last_change(target) > _STALLED:
                return None
            if not said and sys.stderr is not None:
                print(
                    f"headstrip: waiting for another process, which downloads "
                    f"{printable(str(target))}.",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
            said = True
        # A read-only folder, no locks on this file system, or a thread that waits for itself.
        except (OSError, RuntimeError):
            with suppress(OSError):
                os.unlink(name)
            return None
