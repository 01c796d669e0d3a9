"""How the C library of this process deals with memory that was freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What ``mallopt`` of glibc calls them, in ``malloc.h``."""

_SIZES = (1 << 30, 1 << 25)
"""Bytes; the second is the most that glibc takes before 2.35."""

_kept = False


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, from now on.

    glibc gives large blocks back to the system as they are freed, and asks for them again in the
    next layer: the system then has to clear every page. Large batches lose a fifth of their speed
    to that. ``headstrip embed`` and the actors of Ray do it; a program of one's own has to say so,
    as it cannot be undone, and memory that was used once stays with the process.

    Returns:
        Whether the C library can be told.
    """
    global _kept
    if sys.platform == "linux" and not _kept:
        tell = getattr(ctypes.CDLL(None), "mallopt", None)
        # musl has none.
        if tell is not None:
            is_set = any(tell(_MMAP_THRESHOLD, size) for size in _SIZES)
            _kept = bool(is_set and tell(_TRIM_THRESHOLD, (1 << 31) - 1))
    return _kept
