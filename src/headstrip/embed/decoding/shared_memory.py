"""Memory that several processes share, and that the system frees when the last of them ends."""

from __future__ import annotations

import mmap
import os
import tempfile
import uuid
from dataclasses import dataclass, replace

import numpy as np

_COUNTERS = 8
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Memory:
    """Where shared memory is and what it holds.

    Attributes:
        handle: A file descriptor, the same number in all processes; on Windows a name.
        processes: Number of rows of counters.
        shape: Shape of the slots: (slots, batch_size, H, W, C).
    """

    handle: int | str
    processes: int
    shape: tuple[int, ...]

    @property
    def start(self) -> int:
        """Byte at which the slots begin, after the counters."""
        used = max(1, self.processes) * _COUNTERS * 8
        return -(-used // _PAGE) * _PAGE

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.start + int(np.prod(self.shape, dtype=np.int64))


def allocate(processes: int, shape: tuple[int, ...]) -> Memory:
    """Allocate memory of zeros that other processes can ``attach``.

    It has no name in the file system. The caller closes the descriptor.
    """
    memory = Memory("", processes, shape)
    if os.name == "nt":
        return replace(memory, handle=f"headstrip-{uuid.uuid4().hex}")
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("headstrip", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, memory.size)
    return replace(memory, handle=handle)


def attach(memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """Map shared memory.

    Returns:
        int64 array (processes, 8) of counters, 64 bytes apart, and uint8 array ``memory.shape``.
        The memory stays mapped while one of them exists.
    """
    if isinstance(memory.handle, str):
        # mypy knows only the arguments of the system that it runs on.
        mapped = mmap.mmap(-1, memory.size, **{"tagname": memory.handle})  # type: ignore[arg-type]
    else:
        mapped = mmap.mmap(memory.handle, memory.size)
    counters = np.frombuffer(mapped, np.int64, max(1, memory.processes) * _COUNTERS)
    slots = np.frombuffer(mapped, np.uint8, offset=memory.start).reshape(memory.shape)
    return counters.reshape(-1, _COUNTERS), slots
