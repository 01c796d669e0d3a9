"""The command line in a process with a real terminal as stdout and stderr."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence

from tests.distributions import SOURCES


def in_terminal(
    *arguments: str, columns: int, program: Sequence[str] = ("-m", "headstrip.cli")
) -> str:
    """Run a command, or another Python program, in a terminal, and return its output."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(slave)
    shown = b""
    with child:
        while chunk := _read(master):
            shown += chunk
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:
        # On Linux, this error means that the other end is closed.
        return b""
