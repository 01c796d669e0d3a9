"""Which files of a folder are images, how a table names them, and where the table may go.

Nothing here imports torch, so a mistaken path is told before anything slow begins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from headstrip.errors import HeadstripError
from headstrip.system.os_errors import explain, explain_exhaustion

SUFFIXES = frozenset({
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc",
    ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".qoi", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""Suffixes of the files that are taken for images, in any case."""


HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
"""Suffixes that are taken for images where pillow-heif is installed."""

_OTHERS = frozenset({
    ".arrow", ".csv", ".feather", ".h5", ".hdf5", ".html", ".json", ".jsonl", ".npy", ".npz",
    ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tsv", ".txt", ".xlsx", ".zip",
})  # fmt: skip
"""Suffixes of files that are no Parquet, and that nothing here writes."""

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_LOOKS_ESCAPED = re.compile(rb"\\(?=x[0-9a-f]{2})")


def is_image(name: str) -> bool:
    """Whether a file is taken for an image by the suffix of its name, in any case."""
    # Of `.jpg` too, which `splitext` takes for a name without a suffix.
    _, dot, end = name.rpartition(".")
    suffix = dot + end.lower()
    return suffix in SUFFIXES or (suffix in HEIF_SUFFIXES and heif_is_installed())


@cache
def heif_is_installed() -> bool:
    """Whether pillow-heif is there, which decodes HEIC and HEIF."""
    return find_spec("pillow_heif") is not None


def find_images(folder: str | os.PathLike[str]) -> list[str]:
    """List the image files of a folder and of the folders in it.

    A file is taken for an image by its suffix, so that a damaged one is not left out. Links to
    files are followed, links to folders are not.

    Args:
        folder: Where to look.

    Returns:
        Paths relative to ``folder``, sorted by what ``stored_path`` makes of them.

    Raises:
        HeadstripError: There is no such folder, one in it cannot be listed, or no image is there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise HeadstripError(f"There is no folder {os.fspath(folder)!r}. Check the path.")
    found = [
        os.path.relpath(os.path.join(place, name), root)
        for place, _, names in os.walk(root, onerror=refuse_folder)
        for name in names
        if is_image(name)
    ]
    if not found:
        raise HeadstripError(
            f"There is no image in {os.fspath(folder)!r}. "
            f"An image is a file that ends in one of {', '.join(sorted(SUFFIXES))}."
        )
    return sorted(found, key=stored_path)


def stored_path(relative: str) -> str:
    r"""Write a relative path with ``/`` and as text, so that a table can hold it.

    Bytes that are not UTF-8 become ``\xNN``, and so does a backslash that would be read as the
    start of one: ``original_path`` reads it back.
    """
    return escape(os.fsencode(Path(relative).as_posix()))


def escape(name: bytes) -> str:
    r"""Write the bytes of a path as text, in the way of ``stored_path``.

    Example:
        >>> escape(b"gr\xfcn.jpg")
        'gr\\xfcn.jpg'
    """
    return _LOOKS_ESCAPED.sub(rb"\\x5c", name).decode("utf-8", "backslashreplace")


def original_path(stored: str) -> str:
    """Read a path that ``stored_path`` wrote, as this system takes it."""
    raw = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), stored.encode())
    return os.fsdecode(raw)


def check_out(out: str | os.PathLike[str]) -> Path:
    """Return where a new file will stand, links resolved.

    Raises:
        HeadstripError: Its folder does not exist or cannot be written to, or something that is
            no file stands there.
    """
    shown = os.fsdecode(out)
    try:
        path = Path(os.path.realpath(out))
        path.exists()
    except OSError as error:
        raise HeadstripError(explain(error, f"{shown!r} cannot be written")) from error
    except ValueError as error:
        raise HeadstripError(f"{shown!r} cannot be written: {error}. Use another name.") from error
    if not path.parent.is_dir():
        raise HeadstripError(
            f"{shown!r} cannot be written: there is no folder {str(path.parent)!r}. Make it, or "
            "name another file."
        )
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise HeadstripError(f"{shown!r} cannot be written: it is {kind}. Name a file.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise HeadstripError(
            f"{shown!r} cannot be written: the folder {str(path.parent)!r} takes no new files. "
            "Change its permissions or how it is mounted, or name a file elsewhere."
        )
    return path


def check_suffix(out: str | os.PathLike[str]) -> None:
    """Refuse a name that promises another format than is written.

    Raises:
        HeadstripError: It does.
    """
    suffix = os.path.splitext(os.fsdecode(out))[1]
    if suffix != ".npy" and suffix.lower() in _OTHERS | SUFFIXES | HEIF_SUFFIXES:
        raise HeadstripError(
            f"{os.fsdecode(out)!r} cannot be written: embeddings go into Parquet or .npy, and not "
            f"into {suffix}. Name a file that ends in .parquet or .npy."
        )


def refuse_folder(error: OSError) -> NoReturn:
    """Raise that a folder cannot be listed, and why.

    Raises:
        HeadstripError: Always.
    """
    remedy = "Change its permissions, or take it out."
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        remedy = "Check the path."
    raise HeadstripError(
        f"The folder {error.filename!r} cannot be listed ({error.strerror}). {remedy}"
    ) from error


@contextmanager
def writing(out: Path, *, parts: Path | None = None) -> Iterator[None]:
    """Turn what the system refuses into a sentence with the true cause.

    Args:
        out: What is written.
        parts: The folder that holds what is done so far, None where nothing is kept.

    Raises:
        HeadstripError: It refused, or memory or threads ran out.
    """
    what = f"{str(out)!r} could not be written"
    try:
        yield
    except HeadstripError:
        # Some of them are errors of the system's kinds as well.
        raise
    except OSError as error:
        raise HeadstripError(explain(error, what) + _kept(parts)) from error
    except Exception as error:
        said = explain_exhaustion(error, what)
        if said is None:
            raise
        raise HeadstripError(said + _kept(parts)) from error


def _kept(parts: Path | None) -> str:
    """Say what is kept, where anything is."""
    try:
        is_kept = parts is not None and any(parts.glob("*/[0-9]*.parquet"))
    except OSError:
        # What failed before may fail here too, and nothing is promised then.
        is_kept = False
    if not is_kept:
        return ""
    return f" What is done so far is kept in {str(parts)!r}: run the same line again to go on."
