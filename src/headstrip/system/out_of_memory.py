"""Recognise errors that mean that memory ran out. This module does not import torch."""

from __future__ import annotations

from headstrip.errors import HeadstripError

_NAMES = frozenset({"OutOfMemoryError", "MemoryError"})
_MESSAGES = (
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
    """A batch does not fit in the memory of the device. A smaller one may."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on any device.

    torch's own allocators raise a special class. The CPU's allocator and the libraries below torch
    raise a ``RuntimeError`` that only its message identifies.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
        True
    """
    if any(kind.__name__ in _NAMES for kind in type(error).__mro__):
        return True
    # Other exceptions may quote such words from an image or a file.
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MESSAGES)
