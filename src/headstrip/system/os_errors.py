"""What the operating system refuses, in a sentence that says what to do about it."""

from __future__ import annotations

import errno

from headstrip.errors import one_line
from headstrip.system.memory import address_limit, shown_bytes

_REMEDIES = {
    errno.ENOSPC: "Make room there, or write to another disk.",
    errno.EFBIG: "The system limits the size of a file (`ulimit -f`, or the file system itself). "
    "Raise the limit, or write to another file system.",
    errno.ENAMETOOLONG: "Choose a shorter name: headstrip adds up to 13 characters to it, for the "
    "files beside it.",
    errno.EACCES: "Change the permissions, or name another place.",
    errno.EPERM: "Change the permissions, or name another place.",
    errno.EROFS: "Name a place on a file system that can be written to.",
    errno.EMFILE: "This process has too many files open. Raise the limit (`ulimit -n 4096`), or "
    "use fewer processes (--workers, workers=).",
    errno.ENFILE: "All programs together have too many files open. End others, or use fewer "
    "processes (--workers, workers=).",
    errno.ENOMEM: "There is not enough memory. Use a smaller batch (--batch-size, batch_size=) or "
    "fewer processes (--workers, workers=), or end other programs.",
    errno.EAGAIN: "The system allows no more processes or threads (`ulimit -u`). Use fewer "
    "(--workers, workers=; --lanes, lanes=; --threads, threads=), or end other programs.",
    errno.EIO: "The disk reports an error: check it, or use another.",
    errno.ENOENT: "There is no such file or folder, or no new one can be made there. Check the "
    "path, and that nothing else removes or renames it.",
    errno.ENOTDIR: "A part of the path is no folder. Check the path.",
    errno.EEXIST: "Something else has that name. Move it, or choose another name.",
    errno.EISDIR: "It is a folder. Choose another name.",
    errno.ELOOP: "Symbolic links lead in a circle. Remove one of them, or choose another name.",
    errno.EBUSY: "Another program uses it. Close that program.",
}
_OF_THREADS = ("can't start new thread", "Failed to launch worker thread")
_OF_LIBRARIES = "failed to map segment from shared object"
_QUOTA = getattr(errno, "EDQUOT", None)
_SHARING = frozenset({32, 33})
"""Numbers of Windows for a file that another program has open."""


def explain(error: OSError, what: str) -> str:
    """Say that something failed, why, and what to do.

    Args:
        error: What the system said.
        what: What failed, as the start of a sentence: ``"'photos.parquet' could not be written"``.

    Example:
        >>> explain(OSError(28, "No space left on device"), "'photos.parquet' could not be written")
        "'photos.parquet' could not be written (No space left on device). Make room there, or \
write to another disk."
    """
    reason = error.strerror or one_line(error)
    file = error.filename2 or error.filename
    if isinstance(file, (str, bytes)) and repr(file) not in what:
        reason += f": {file!r}"
    return f"{what} ({reason}). {_remedy(error)}"


def explain_exhaustion(error: BaseException, what: str) -> str | None:
    """Say that something failed because memory or threads ran out; None where it was another cause.

    Args:
        error: What was raised: by Python, numpy, torch, pyarrow or the loader of libraries.
        what: As in ``explain``.
    """
    # The commands that are light import no numpy.
    from headstrip.system.out_of_memory import is_out_of_memory

    said = str(error)
    is_threads = any(words in said for words in _OF_THREADS)
    is_memory = is_out_of_memory(error) or _OF_LIBRARIES in said
    limit = address_limit()
    if limit is not None and (is_memory or is_threads):
        return (
            f"{what}: memory ran out. This process may use {shown_bytes(limit)} of addresses "
            "(`ulimit -v`). Raise that limit (`ulimit -v unlimited`)."
        )
    if is_threads:
        return f"{what}: no more threads could be started. {_REMEDIES[errno.EAGAIN]}"
    if is_memory:
        return f"{what}: memory ran out. {_REMEDIES[errno.ENOMEM].partition('. ')[2]}"
    cause = error.__cause__
    return None if cause is None else explain_exhaustion(cause, what)


def _remedy(error: OSError) -> str:
    if getattr(error, "winerror", None) in _SHARING:
        return "Another program has it open. Close it there, and try again."
    if error.errno is not None and error.errno == _QUOTA:
        return "Your quota there is used up. Make room, or write to another disk."
    return _REMEDIES.get(error.errno or 0, "Check the disk and the path, or name another place.")
