"""File locks, which end with the process that holds them."""

from __future__ import annotations

import os
from inspect import signature
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


def file_lock(path: str | os.PathLike[str]) -> BaseFileLock:
    """Return a lock on a file, which is created when the lock is acquired."""
    from filelock import FileLock

    # The fallback lock is the existence of a file, which remains after the process is killed.
    if "fallback_to_soft" in signature(FileLock.__init__).parameters:
        return FileLock(path, fallback_to_soft=False)
    return FileLock(path)
