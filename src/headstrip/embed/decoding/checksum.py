"""The checksum that shows whether the bytes of an image changed."""

from __future__ import annotations

import hashlib


def checksum_of(data: bytes) -> str:
    """Return the 128-bit BLAKE2b hash (RFC 7693) of an image's bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
