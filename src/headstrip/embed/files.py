"""Checks of the file to write, and the errors of writing it.

This module does not import torch, so that a wrong path is reported before anything slow starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headstrip.embed.sources import HEIF_SUFFIXES, IMAGE_SUFFIXES
from headstrip.errors import HeadstripError
from headstrip.system.arguments import check_path
from headstrip.system.os_errors import explain, explain_exhaustion

_OTHERS = (
    ".arrow .csv .feather .h5 .hdf5 .html .json .jsonl .npy .npz .pkl .pt .pth .safetensors .tar "
    ".tsv .txt .xlsx .zip"
)
_OTHER_SUFFIXES = frozenset(_OTHERS.split())
"""Suffixes of formats that headstrip does not write embeddings in."""


def check_out(out: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write, links resolved.

    Raises:
        HeadstripError: Its folder does not exist or cannot be written to, or the path is that of
            something other than a regular file.
        OptionError: It is not a path.
    """
    check_path("out", out, "photos.parquet")
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
            f"{shown!r} cannot be written: there is no folder {str(path.parent)!r}. Create it, or "
            "name another file."
        )
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise HeadstripError(f"{shown!r} cannot be written: it is {kind}. Pass a file.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise HeadstripError(
            f"{shown!r} cannot be written: you may not create files in the folder "
            f"{str(path.parent)!r}. Change its permissions or how it is mounted, or pass a file "
            "elsewhere."
        )
    return path


def check_suffix(out: str | os.PathLike[str]) -> None:
    """Refuse a file name with the suffix of another format.

    Raises:
        HeadstripError: The suffix is that of another format.
    """
    suffix = os.path.splitext(os.fsdecode(out))[1]
    if suffix != ".npy" and suffix.lower() in _OTHER_SUFFIXES | IMAGE_SUFFIXES | HEIF_SUFFIXES:
        raise HeadstripError(
            f"{os.fsdecode(out)!r} cannot be written: embeddings are written as Parquet or .npy, "
            f"not as {suffix}. Pass a file that ends in .parquet or .npy."
        )


@contextmanager
def write_errors(out: Path, *, work_folder: Path | None = None) -> Iterator[None]:
    """Raise a HeadstripError with the cause when the system refuses something.

    Args:
        out: The file that is written.
        work_folder: The folder with the finished shards; None if nothing is kept.

    Raises:
        HeadstripError: The system refused, or memory or threads ran out.
    """
    what = f"{str(out)!r} could not be written"
    try:
        yield
    except HeadstripError:
        # Some subclasses are an OSError or a MemoryError as well.
        raise
    except OSError as error:
        raise HeadstripError(explain(error, what) + _kept(work_folder)) from error
    except Exception as error:
        sentence = explain_exhaustion(error, what)
        if sentence is None:
            raise
        raise HeadstripError(sentence + _kept(work_folder)) from error


def _kept(work_folder: Path | None) -> str:
    """Return a sentence about the finished shards, if there are any."""
    try:
        is_kept = work_folder is not None and any(work_folder.glob("*/[0-9]*.parquet"))
    except OSError:
        # What the system refused before, it may refuse here too.
        is_kept = False
    if not is_kept:
        return ""
    return (
        f" headstrip keeps the finished rows in {str(work_folder)!r}. Run the same command again "
        "to resume."
    )
