"""The errors for weights files that cannot be read."""

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
"""How many of a file's first bytes `wrong_kind` looks at."""

_CODE = "it holds more than tensors and plain values"
_NAMED = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
"""How torch says which class or function is in a file."""

_GONE = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, getattr(errno, "EREMOTEIO", errno.EIO)}
_TAR = 257


def damaged(path: Path, problem: str) -> WeightsError:
    """Return the error for a file that is not a weights file."""
    remedy = "Get the file again, or save a state dict."
    if lies_in_a_cache(path):
        remedy = (
            "It is in a cache or in an installed package: run `headstrip weights repair NAME` "
            "with the name of these weights, or install the package again."
        )
    elif problem.startswith(_CODE):
        remedy = (
            "If you trust it, save its state dict (content['state_dict'] of a checkpoint, "
            "content.state_dict() of a model) in the environment that made it: content = "
            f"torch.load({str(path)!r}, weights_only=False); torch.save(content.state_dict(), "
            "'weights.pth')."
        )
    return WeightsError(
        f"{path} is not a file of weights, or is damaged ({problem}). Nothing of it was executed. "
        f"{remedy}"
    )


def too_large(path: Path, found: int, limit: int) -> WeightsError:
    """Return the error for a file that holds more than its network needs."""
    return WeightsError(
        f"{path} holds {found:,} bytes of tensors, and at most {limit:,} are expected of it. It is "
        "another network's file, or a checkpoint with much more than the weights: name the right "
        "one, or save the state dict alone."
    )


def wrong_kind(start: bytes) -> str:
    """Say in few words what a file is by its first bytes, "" where it may hold weights."""
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, and not the file that it points to"
    if start[_TAR : _TAR + 5] == b"ustar":
        return (
            "it is a tar archive; what torch saved so before 2017 cannot be read without running "
            "code of it: save its state dict again if you trust it"
        )
    return ""


def reason_of(error: Exception) -> str:
    """Say in few words why a parser failed."""
    if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
        named = _NAMED.search(str(error))
        what = f"; it names {named[1]:.100}" if named else ""
        return f"{_CODE}, such as a whole model, or no tensors{what}"
    return one_line(error)[:200]


def not_readable(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file that the system does not let headstrip read."""
    # Unlike Path.is_dir, os.path.isdir accepts a name that is too long.
    if os.path.isdir(path):
        return WeightsError(
            f"{str(path)!r} is a folder, and no file of weights. {folder_advice(path)}"
        )
    remedy = "Check the path and its permissions."
    if is_of_the_disk(error):
        remedy = "The disk or the network fails: try again, or put the file elsewhere."
    return WeightsError(
        f"The weights file {str(path)!r} cannot be read ({one_line(error)}). {remedy}"
    )


def folder_advice(folder: Path) -> str:
    """Say what to pass instead of a folder."""
    whole = os.path.abspath(folder)
    if (folder / SAVED).is_file():
        return f"encoder.save wrote it: pass it in place of the backbone, as '{whole}{os.sep}'."
    if (folder / CONFIG).is_file():
        return f"It is a model of transformers: write 'hf:{whole}' in place of the backbone."
    files = [one for one in sorted(folder.glob("*")) if one.name.endswith(SUFFIXES)]
    return f"Pass a file of weights{f' in it, such as {str(files[0])!r}' if files else ''}."


def is_of_the_disk(error: Exception) -> bool:
    """Whether a disk fails; for any other error of a parser, the file's content is to blame."""
    return isinstance(error, OSError) and error.errno in _GONE
