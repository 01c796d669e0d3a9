"""Parts of a file read into memory of their own, as fast as the system gives them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import torch

_WORTH_THREADS = 1 << 24
_MOST_THREADS = 4
_CUT = "it ends before its last tensor does"


def read_parts(file: BinaryIO, places: Sequence[tuple[int, int]]) -> list[torch.UntypedStorage]:
    """Read parts of an open file, each into memory that starts at a multiple of 64 bytes.

    Each part has memory of its own, so that a part that nobody needs any more is freed alone.

    Args:
        file: The open file.
        places: Where each part starts, and how many bytes it has.

    Raises:
        ValueError: The file ends before a part does.
        OSError: It cannot be read.
    """
    parts = [torch.empty(size, dtype=torch.uint8, device="cpu") for _, size in places]
    jobs = [(start, part.numpy().data) for (start, _), part in zip(places, parts, strict=True)]
    if hasattr(os, "preadv") and sum(size for _, size in places) >= _WORTH_THREADS:
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
            list(threads.map(lambda job: _read_at(file.fileno(), *job), jobs))
    else:
        for start, view in jobs:
            _read_on(file, start, view)
    return [part.untyped_storage() for part in parts]


def _read_at(descriptor: int, start: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], start + done)
        if not count:
            raise ValueError(_CUT)
        done += count


def _read_on(file: BinaryIO, start: int, view: memoryview) -> None:
    file.seek(start)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(_CUT)
        done += count
