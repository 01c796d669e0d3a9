"""How much memory this process may use. This module does not import torch."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_STATM = Path("/proc/self/statm")
_GIB = 1 << 30


def memory_limit() -> int | None:
    """Return how many bytes of memory this process can use at most, None if unknown.

    This is the smallest of the machine's memory, the container's limit and the process's limit.
    """
    known = [_physical(), *map(_number_in, _CGROUPS), address_limit()]
    return min((one for one in known if one is not None), default=None)


def address_limit() -> int | None:
    """Return the limit on the address space in bytes (``ulimit -v``), None without a limit."""
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def addresses_used() -> int:
    """Return the size of this process's address space in bytes, 0 if unknown."""
    try:
        return int(_STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def shown_bytes(count: int) -> str:
    """Write a number of bytes in GiB, MiB or KiB.

    Example:
        >>> shown_bytes(3 << 29), shown_bytes(200_704)
        ('1.5 GiB', '196.0 KiB')
    """
    if count >= _GIB:
        return f"{count / _GIB:,.1f} GiB"
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _number_in(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
