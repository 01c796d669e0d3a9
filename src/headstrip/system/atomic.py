"""Files that are whole or not there: written beside their name, and renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
    with written_together([path], within=within, durable=durable) as (file,):
        yield file


@contextmanager
def written_together(
    paths: Sequence[Path], *, within: Path | None = None, durable: bool = False
) -> Iterator[Sequence[BinaryIO]]:
    """Give files to write to that take their names, in this order, when the body is through.

    No name is taken before all files are whole. A process that is killed between two of the names
    leaves the first ones new and the others old: whoever reads them has to notice.

    Args:
        paths: The names, in one folder; files that have them are replaced.
        within: As in ``written_beside``.
        durable: As in ``written_beside``.
    """
    temporaries: list[Path] = []
    try:
        with ExitStack() as opened:
            files: list[BinaryIO] = []
            for path in paths:
                # Of a long name a part alone: with what comes to it, it might be too long.
                name = f".{path.name[:40]}.{secrets.token_hex(4)}"
                temporary = (within or path.parent) / name
                handle = os.open(temporary, _NEW, 0o666)
                temporaries.append(temporary)
                files.append(opened.enter_context(os.fdopen(handle, "wb")))
            yield files
            for file in files:
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
    except BaseException:
        for temporary in temporaries:
            # One that has its name already is not there any more.
            with suppress(OSError):
                os.unlink(temporary)
        raise
    if durable:
        sync_folder(paths[0].parent)


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
