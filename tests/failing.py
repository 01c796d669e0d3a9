"""Make the k-th of the chosen operating system calls fail, or end the process there::

    for at in itertools.count():
        with failing("write", "fsync", at=at, error=errno.ENOSPC) as calls:
            ...
        if not calls.hit:
            break

For separate processes, see ``tests.children``. Only calls from Python code count: the functions of
:mod:`os` below, ``open``, and writes to files that ``open`` opened (each write is one ``write`` of
the operating system).
"""

from __future__ import annotations

import builtins
import contextlib
import errno as errnos
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

DIED = 86
"""Exit status of a process that ended at a call."""

NAMES = (
    "open",
    "write",
    "fsync",
    "ftruncate",
    "truncate",
    "replace",
    "rename",
    "link",
    "symlink",
    "unlink",
    "remove",
    "mkdir",
    "utime",
)
"""The calls that can be chosen; by default, all of them."""


@dataclass
class Calls:
    """The chosen calls so far, counted from 0."""

    at: int | None
    act: Callable[[str], None]
    after: bool = False
    seen: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def hit(self) -> bool:
        """Whether the process made enough calls for one to fail."""
        return self.at is not None and len(self.seen) > self.at

    def made(self, name: str, call: Callable[[], Any]) -> Any:
        """Make one of the calls, or fail."""
        with self._lock:
            chosen = len(self.seen) == self.at
            self.seen.append(name)
        if chosen and not self.after:
            self.act(name)
        try:
            return call()
        finally:
            if chosen and self.after:
                self.act(name)


class _CountedFile(io.FileIO):
    """A file that counts its writes."""

    calls: Calls

    def write(self, data: Any) -> int:
        written: int = self.calls.made("write", lambda: super(_CountedFile, self).write(data))
        return written


def _opened(calls: Calls, names: tuple[str, ...], real: Callable[..., Any]) -> Callable[..., Any]:
    """Return an ``open`` that counts its calls and the writes to its files."""

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: Any = None,
        errors: Any = None,
        newline: Any = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        def call() -> Any:
            if "write" not in names or not set(mode) & set("wax+"):
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = _CountedFile(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            raw.calls = calls
            if buffering == 0:
                return raw
            buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

        return calls.made("open", call) if "open" in names else call()

    return opened


@contextlib.contextmanager
def _counting(names: tuple[str, ...], calls: Calls) -> Iterator[Calls]:
    names = names or NAMES
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"{sorted(unknown)} are not among {NAMES}")
    with contextlib.ExitStack() as patches:
        for name in names:
            real = getattr(os, name)

            def counted(*args: Any, _name: str = name, _real: Any = real, **named: Any) -> Any:
                return calls.made(_name, lambda: _real(*args, **named))

            patches.enter_context(mock.patch.object(os, name, counted))
        opened = _opened(calls, names, io.open)
        for module in (builtins, io):
            patches.enter_context(mock.patch.object(module, "open", opened))
        yield calls


def failing(
    *names: str, at: int | None, error: int = errnos.ENOSPC
) -> contextlib.AbstractContextManager[Calls]:
    """Make call number ``at`` of the named ones raise ``OSError``; with None, only count them."""

    def act(_: str) -> None:
        raise OSError(error, os.strerror(error))

    return _counting(names, Calls(at, act))


def dying(
    *names: str, at: int | None, after: bool = False
) -> contextlib.AbstractContextManager[Calls]:
    """End the process before call number ``at`` of the named ones, or ``after`` it."""
    return _counting(names, Calls(at, lambda _: os._exit(DIED), after))
