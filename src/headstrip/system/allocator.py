"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameter numbers of glibc's ``mallopt``, from ``malloc.h``."""

_SIZES = (1 << 30, 1 << 25)
"""Thresholds in bytes. glibc before 2.35 accepts at most the second one."""

_kept = False


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees, instead of returning it to the system.

    By default glibc returns large blocks to the system when they are freed, and requests them
    again in the next layer of a network; the system then clears every page. This costs large
    batches a fifth of their speed. ``headstrip embed`` and the Ray actors call this function. Call
    it yourself in your own program: it cannot be undone, and the process keeps its peak memory.

    Returns:
        Whether the C library supports it.

    Example:
        >>> is_kept = keep_freed_memory()
    """
    global _kept
    if sys.platform == "linux" and not _kept:
        # musl has no mallopt.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            is_set = any(mallopt(_MMAP_THRESHOLD, size) for size in _SIZES)
            _kept = bool(is_set and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
    return _kept
