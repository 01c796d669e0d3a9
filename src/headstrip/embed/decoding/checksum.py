"""What tells whether a file's bytes are those that were embedded."""

from __future__ import annotations

import hashlib


def checksum_of(data: bytes) -> str:
    """Return the 32 hexadecimal digits of a 128-bit BLAKE2b hash (RFC 7693) of an image's bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
