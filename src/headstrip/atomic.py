"""Files that are whole or not there: written beside their name, and renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def written_beside(
    path: Path, *, within: Path | None = None, durable: bool = False
) -> Iterator[BinaryIO]:
    """Give a file to write to that takes its name when the body is through, and is gone else.

    Args:
        path: The name; a file that has it is replaced.
        within: Folder to write in, on the same file system; else that of ``path``.
        durable: Whether the file and its name are on the disk, not in memory, when it returns.
    """
    # Of a long name a part alone: with what comes to it, it might be too long.
    temporary = (within or path.parent) / f".{path.name[:40]}.{secrets.token_hex(4)}"
    handle = os.open(temporary, _NEW, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(path.parent)


def write_atomically(
    path: Path, data: bytes, *, within: Path | None = None, durable: bool = False
) -> None:
    """Write ``data`` beside ``path`` and rename it there: whole or not at all."""
    with written_beside(path, within=within, durable=durable) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
