"""What the name of a file says, and how a table writes it."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.util import find_spec

from headstrip.embed.sources.access import HTTP, is_url

_IMAGES = (
    ".apng .avif .avifs .bmp .dib .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo "
    ".pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff .webp"
)
IMAGE_SUFFIXES = frozenset(_IMAGES.split())
"""Suffixes of image files, in lower case."""

HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
"""Suffixes of files that are images if pillow-heif is installed."""

_COMPRESSED = (".tar.bz2", ".tar.gz", ".tar.xz", ".tar.zst", ".tbz2", ".tgz", ".txz")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_LOOKS_ESCAPED = re.compile(rb"\\(?=x[0-9a-f]{2})")


def is_image(name: str) -> bool:
    """Whether the suffix of a name, in upper or lower case, is that of an image."""
    # `splitext` finds no suffix in `.jpg`.
    _, dot, end = name.rpartition(".")
    suffix = dot + end.lower()
    return suffix in IMAGE_SUFFIXES or (suffix in HEIF_SUFFIXES and heif_is_installed())


@cache
def heif_is_installed() -> bool:
    """Whether pillow-heif is installed, which decodes HEIC and HEIF."""
    return find_spec("pillow_heif") is not None


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, such as ``.jpg``; both of ``.tar.gz``."""
    lower = name.lower()
    double = next((suffix for suffix in _COMPRESSED if lower.endswith(suffix)), None)
    return double or os.path.splitext(lower)[1]


def kind_of(name: str) -> str | None:
    """Return what a file is by its suffix: ``image``, ``tar``, ``parquet`` or None."""
    if is_image(name):
        return "image"
    suffix = suffix_of(name)
    if suffix == ".tar" or suffix in _COMPRESSED:
        return "tar"
    return "parquet" if suffix == ".parquet" else None


def stored_path(path: str) -> str:
    r"""Return a path with ``/`` as text for a table; ``original_path`` reverses it.

    Bytes that are not UTF-8 become ``\xNN``, and so does a backslash that would look like the
    start of one.
    """
    return escape(os.fsencode(path))


def escape(name: bytes) -> str:
    r"""Return the bytes of a path as text, like ``stored_path``.

    Example:
        >>> escape(b"gr\xfcn.jpg")
        'gr\\xfcn.jpg'
    """
    return _LOOKS_ESCAPED.sub(rb"\\x5c", name).decode("utf-8", "backslashreplace")


def original_path(stored: str) -> str:
    """Return the path of this system that ``stored_path`` made a text of."""
    raw = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), stored.encode())
    return os.fsdecode(raw)


def joined(root: str, stored: str) -> str:
    """Return where a stored path leads from a folder or a url; a url leads to itself."""
    if is_url(stored):
        return original_path(stored)
    if is_url(root):
        return f"{root}{'' if root.endswith('/') else '/'}{original_path(stored)}"
    return os.path.join(root, original_path(stored))


def display_name(location: str) -> str:
    """Return a path or url as results may show it: no password, and no signature of a url."""
    if not is_url(location):
        return stored_path(location)
    scheme, _, rest = location.partition("://")
    host, slash, path = rest.partition("/")
    if scheme.lower() in HTTP:
        path = path.partition("?")[0]
    return escape(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".encode())
