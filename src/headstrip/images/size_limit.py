"""How large an encoded image may be. It imports no Pillow: sources list images without it."""

from __future__ import annotations

from headstrip.errors import ImageError

MAX_BYTES = 1 << 28
"""The largest encoded image that headstrip reads, in bytes."""


def refuse_size(size: int) -> None:
    """Refuse an image that is too large.

    Raises:
        ImageError: It has more than ``MAX_BYTES``.
    """
    if size > MAX_BYTES:
        raise ImageError(f"it has {size} bytes, and at most {MAX_BYTES} are read.")
