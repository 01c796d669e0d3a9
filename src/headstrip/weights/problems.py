"""The errors for weights files that headstrip cannot read."""

from __future__ import annotations

import errno
import os
import pickle
import re
from pathlib import Path

from headstrip.errors import WeightsError, one_line
from headstrip.spec import CONFIG, SAVED
from headstrip.weights.addresses import SUFFIXES
from headstrip.weights.folders import lies_in_a_cache

START = 512
"""How many bytes of the start of a file `wrong_kind` needs."""

_CODE = "it has more than tensors and plain values"
_NAMED = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
"""torch's message for a class or a function in a file."""

_GONE = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, getattr(errno, "EREMOTEIO", errno.EIO)}
_TAR_MAGIC_AT = 257


def damaged(path: Path, problem: str) -> WeightsError:
    """Return the error for a file that is damaged or is not a weights file."""
    remedy = "Get the file again, or save a state dict."
    if lies_in_a_cache(path):
        remedy = (
            "Run `headstrip weights repair NAME`, which downloads the file again; `headstrip "
            "weights list` prints the names. If a package contains the file, install that again."
        )
    elif problem.startswith(_CODE):
        remedy = (
            "If you trust the file, save its state dict (content['state_dict'] of a checkpoint, "
            "content.state_dict() of a model) in the environment that made it: content = "
            f"torch.load({str(path)!r}, weights_only=False); torch.save(content.state_dict(), "
            "'weights.pth')."
        )
    return WeightsError(
        f"{path} is damaged or is not a weights file: {problem}. headstrip executed nothing in it. "
        f"{remedy}"
    )


def too_large(path: Path, found: int, limit: int) -> WeightsError:
    """Return the error for a file with more bytes of tensors than its network needs."""
    return WeightsError(
        f"{path} has {found:,} bytes of tensors, and this network needs at most {limit:,}. Pass "
        "the file of this network, or save its state dict alone."
    )


def wrong_kind(start: bytes) -> str:
    """Return what a file is according to its first bytes, or "" if it may be a weights file."""
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file that it points to"
    if start[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return (
            "it is a tar archive, which torch wrote before 2017 and which can run code. If you "
            "trust it, load it with torch and save its state dict"
        )
    return ""


def short_reason(error: Exception) -> str:
    """Return a short reason for the error of a parser."""
    if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
        named = _NAMED.search(str(error))
        what = f"; it names {named[1]:.100}" if named else ""
        return f"{_CODE}, such as a whole model, or no tensors{what}"
    return one_line(error, 200)


def not_readable(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file that the operating system cannot read."""
    # Unlike Path.is_dir, os.path.isdir accepts a name that is too long.
    if os.path.isdir(path):
        return WeightsError(f"{str(path)!r} is a folder, not a weights file. {folder_advice(path)}")
    remedy = "Check the path and its permissions."
    if is_of_the_disk(error):
        remedy = "The disk or the network failed. Try again, or copy the file to another disk."
    return WeightsError(
        f"headstrip cannot read the weights file {str(path)!r} ({one_line(error)}). {remedy}"
    )


def folder_advice(folder: Path) -> str:
    """Return what to pass instead of a folder."""
    whole = os.path.abspath(folder)
    if (folder / SAVED).is_file():
        return f"encoder.save wrote it. Pass '{whole}{os.sep}' as the backbone."
    if (folder / CONFIG).is_file():
        return f"It contains a transformers model. Pass 'hf:{whole}' as the backbone."
    files = [one for one in sorted(folder.glob("*")) if one.name.endswith(SUFFIXES)]
    return f"Pass a weights file{f' in it, such as {str(files[0])!r}' if files else ''}."


def is_of_the_disk(error: Exception) -> bool:
    """Return whether an error means that the disk failed, and not that the content is damaged."""
    return isinstance(error, OSError) and error.errno in _GONE
