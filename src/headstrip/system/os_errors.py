"""Explain errors of the operating system, and say what to do about them."""

from __future__ import annotations

import errno

from headstrip.errors import one_line
from headstrip.system.memory import address_limit, shown_bytes

_REMEDIES = {
    errno.ENOSPC: "Make room there, or write to another disk.",
    errno.EFBIG: "The system limits the size of a file (`ulimit -f`, or the file system itself). "
    "Raise the limit, or write to another file system.",
    errno.ENAMETOOLONG: "Choose a shorter name: headstrip adds up to 13 characters to it for "
    "temporary files.",
    errno.EACCES: "Change the permissions, or choose another path.",
    errno.EPERM: "Change the permissions, or choose another path.",
    errno.EROFS: "Choose a path on a writable file system.",
    errno.EMFILE: "This process has too many files open. Raise the limit (`ulimit -n 4096`), or "
    "use fewer processes (--workers, workers=).",
    errno.ENFILE: "All programs together have too many files open. Close other programs, or use "
    "fewer processes (--workers, workers=).",
    errno.ENOMEM: "There is not enough memory. Use a smaller batch (--batch-size, batch_size=) or "
    "fewer processes (--workers, workers=), or close other programs.",
    errno.EAGAIN: "The system allows no more processes or threads (`ulimit -u`). Use fewer "
    "(--workers, workers=; --inference-threads, inference_threads=; --threads, threads=), or close "
    "other programs.",
    errno.EIO: "The disk reports an error. Check the disk, or use another one.",
    errno.ENOENT: "The file or folder does not exist, or cannot be created there. Check the "
    "path, and that no other program removes or renames it.",
    errno.ENOTDIR: "A part of the path is not a folder. Check the path.",
    errno.EEXIST: "A file or folder of that name exists. Move it, or choose another name.",
    errno.EISDIR: "The path is a folder. Choose another name.",
    errno.ELOOP: "Symbolic links in the path form a loop. Remove one of them, or choose another "
    "name.",
    errno.EBUSY: "Another program uses it. Close that program.",
}
_THREAD_ERRORS = ("can't start new thread", "Failed to launch worker thread")
_LIBRARY_ERROR = "failed to map segment from shared object"
_QUOTA = getattr(errno, "EDQUOT", None)
_WINDOWS_SHARING = frozenset({32, 33})
"""Windows error numbers for a file that another program has open."""


def explain(error: OSError, what: str) -> str:
    """Return a message that says what failed, why, and what to do.

    Args:
        error: The error of the system.
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
    """Return a message for an error that means that memory or threads ran out, else None.

    Args:
        error: An error of Python, numpy, torch, pyarrow or the loader of shared libraries.
        what: As in ``explain``.
    """
    # Imported here, because commands such as `list` must start fast.
    from headstrip.system.out_of_memory import is_out_of_memory

    text = str(error)
    is_threads = any(words in text for words in _THREAD_ERRORS)
    is_memory = is_out_of_memory(error) or _LIBRARY_ERROR in text
    limit = address_limit()
    if limit is not None and (is_memory or is_threads):
        return (
            f"{what}: memory ran out. The address space of this process is limited to "
            f"{shown_bytes(limit)} (`ulimit -v`). Raise that limit (`ulimit -v unlimited`)."
        )
    if is_threads:
        return f"{what}: no more threads could be started. {_REMEDIES[errno.EAGAIN]}"
    if is_memory:
        return f"{what}: memory ran out. {_REMEDIES[errno.ENOMEM].partition('. ')[2]}"
    cause = error.__cause__
    return None if cause is None else explain_exhaustion(cause, what)


def _remedy(error: OSError) -> str:
    if getattr(error, "winerror", None) in _WINDOWS_SHARING:
        return "Another program has the file open. Close it there, and try again."
    if error.errno is not None and error.errno == _QUOTA:
        return "Your disk quota is used up. Make room, or write to another disk."
    return _REMEDIES.get(error.errno or 0, "Check the disk and the path, or choose another path.")
