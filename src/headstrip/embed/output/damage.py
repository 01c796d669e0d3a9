"""Whether what a read raised says that a file is damaged, or that it cannot be read right now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from headstrip.errors import HeadstripError, one_line


class DamagedFile(HeadstripError):
    """A file whose bytes were read and are not those of a whole Parquet file."""


@contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``DamagedFile`` where pyarrow could read the bytes of a file and not understand them.

    What the system refuses (no permission, no file handle, a disk that fails, no memory) says
    nothing about the file: it stays the error that it is.

    Raises:
        DamagedFile: The file is damaged.
    """
    try:
        yield
    except MemoryError:
        # pyarrow's own is an ArrowException as well.
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        # The system's errors have a number; those that Parquet's reader makes up have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(
            f"{os.fspath(path)!r} is damaged ({one_line(error)[:200].rstrip('.')}). Remove it, and "
            "run the same `headstrip embed` line again."
        ) from error
