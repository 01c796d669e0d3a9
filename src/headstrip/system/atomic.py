"""Write files so that they are complete or absent: write a temporary file, then rename it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LONGEST_NAME = 40
_TEMPORARY = re.compile(rf"\.(.{{1,{_LONGEST_NAME}}})\.[0-9a-f]{{8}}", re.DOTALL)
_ABANDONED_AFTER = 600.0


@contextmanager
def written_beside(
    path: Path, *, within: Path | None = None, durable: bool = False
) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to ``path`` at the end, or removed on an error.

    Args:
        path: The final name. An existing file is replaced.
        within: Folder for the temporary file, on the same file system. None means the folder of
            ``path``.
        durable: Whether to flush the file and its name to the disk before returning.
    """
    with written_together([path], within=within, durable=durable) as (file,):
        yield file


@contextmanager
def written_together(
    paths: Sequence[Path], *, within: Path | None = None, durable: bool = False
) -> Iterator[Sequence[BinaryIO]]:
    """Open several temporary files that are renamed, in this order, at the end.

    No file is renamed before all are complete. If the process is killed between two renames, the
    first files are new and the others old: the code that reads them must detect this.

    Args:
        paths: The final names, in one folder. Existing files are replaced.
        within: As in ``written_beside``.
        durable: As in ``written_beside``.
    """
    temporaries: list[Path] = []
    try:
        with ExitStack() as opened:
            files: list[BinaryIO] = []
            for path in paths:
                name = f".{short_name(path.name)}.{os.urandom(4).hex()}"
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
            # A file that was renamed already no longer has its temporary name.
            with suppress(OSError):
                os.unlink(temporary)
        raise
    if durable:
        sync_folder(paths[0].parent)


def write_atomically(
    path: Path, data: bytes, *, within: Path | None = None, durable: bool = False
) -> None:
    """Write ``data`` to ``path``, completely or not at all."""
    with written_beside(path, within=within, durable=durable) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, on systems where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_abandoned(modified: float) -> bool:
    """Return whether a temporary file belongs to a process that ended.

    A process that runs writes to its file again and again.

    Args:
        modified: When the file was last written to, in seconds since 1970.
    """
    return time.time() - modified > _ABANDONED_AFTER


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that ``written_beside`` left for ``path`` when its process was killed.

    A temporary file that another process is writing stays.
    """
    with suppress(OSError):
        for left in list(path.parent.iterdir()):
            if final_name(left.name) == short_name(path.name):
                with suppress(OSError):
                    if is_abandoned(left.stat().st_mtime):
                        left.unlink()


def final_name(temporary: str) -> str | None:
    """Return the ``short_name`` that a temporary file is for, None for the name of another file."""
    match = _TEMPORARY.fullmatch(temporary)
    return match[1] if match else None


def short_name(name: str) -> str:
    """Cut a long name, because the added suffix of a temporary file could make it too long."""
    return name[:_LONGEST_NAME]
