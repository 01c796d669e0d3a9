"""Refuse to remove or replace files that this process has open or mapped, as Windows does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


def _held() -> set[str]:
    """Return the files that this process has open or mapped."""
    held = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        held.add(line.partition("/")[2])
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            held.add(os.readlink(f"/proc/self/fd/{name}").removeprefix("/"))
    return held


def _refusing(real: Callable[..., Any], count: int) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        held = _held()
        for path in args[:count]:
            name = os.path.realpath(os.fsdecode(path)).removeprefix("/")
            # filelock removes its own lock file when it releases it.
            if name in held and not name.endswith("/lock"):
                raise PermissionError(13, "The process cannot access the file", str(path))
        return real(*args, **named)

    return call


@contextlib.contextmanager
def like_windows() -> Iterator[None]:
    """Refuse to remove, rename or replace files that are in use."""
    with contextlib.ExitStack() as patches:
        for name, count in (("unlink", 1), ("remove", 1), ("rename", 2), ("replace", 2)):
            refusing = _refusing(getattr(os, name), count)
            patches.enter_context(mock.patch.object(os, name, refusing))
        yield
