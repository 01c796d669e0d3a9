"""Whether an error says that memory ran out. Nothing here imports torch."""

from __future__ import annotations

from headstrip.errors import HeadstripError

_NAMES = frozenset({"OutOfMemoryError", "MemoryError"})
_SAID = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "std::bad_alloc",
)


class OutOfMemoryError(HeadstripError, MemoryError):
    """A batch that does not fit in the memory of the device; a smaller one may."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on any device.

    torch has a class of its own for its allocators; libraries below it and the CPU's allocator say
    so in the message of a ``RuntimeError``.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
        True
    """
    if any(kind.__name__ in _NAMES for kind in type(error).__mro__):
        return True
    # An image's, or a file's, own words are no device's.
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)
