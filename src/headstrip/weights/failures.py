"""What keeps a file from being downloaded, said in two sentences."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from headstrip.errors import WeightsError, one_line

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_BY_HAND = "or put the file there yourself"


def failure(url: str, folder: Path, reason: str, remedy: str) -> WeightsError:
    """Say why the file of ``url`` did not come into ``folder``, and what to do."""
    return WeightsError(f"{url} could not be downloaded to {folder} ({reason}). {remedy}.")


def remote_failure(url: str, folder: Path, address: str, error: Exception) -> WeightsError:
    """Say what the server, or the way to it, has against the file.

    Args:
        url: Where the file is from.
        folder: Where it was to be put.
        address: Where it was asked for: there, or at a mirror.
        error: What happened.
    """
    where = "" if address == url else f"at {address}, where HEADSTRIP_MIRROR says: "
    remedy = f"Check the network and the address, {_BY_HAND}"
    return failure(url, folder, f"{where}{one_line(error)}", remedy)


def other_bytes(url: str, folder: Path, found: str, expected: str) -> WeightsError:
    """Say that a download is another file than the one that it must be."""
    reason = f"its sha256 is {found}, and {expected} was expected; nothing of it was kept"
    return failure(url, folder, reason, f"Ask who publishes it, {_BY_HAND}")


def bad_address(url: str, folder: Path, error: ValueError) -> WeightsError:
    """Say that an address, or a setting, is none."""
    return failure(url, folder, one_line(error), f"Correct it, {_BY_HAND}")


def forbidden(url: str, target: Path, setting: str) -> WeightsError:
    """Say that a setting forbids the download."""
    remedy = f"Get it where there is a network, and put the file there as {target}"
    return failure(url, target.parent, f"{setting} forbids it", remedy)


def local_failure(url: str, target: Path, total: int | None, error: OSError) -> WeightsError:
    """Say what this machine's disk has against the file.

    Args:
        url: Where the file is from.
        target: Its final name.
        total: Its size, None where it is not known.
        error: What happened.
    """
    folder = target.parent
    needed = f"; {_megabytes(total)} are to be put there" if total is not None else ""
    if error.errno in _FULL:
        # A quota is full where the disk is not.
        why = "" if error.errno == errno.ENOSPC else f" ({one_line(error)})"
        return failure(
            url, folder, f"the disk of that folder is full{why}{_free(folder)}{needed}",
            "Make room, or set TORCH_HOME to a folder on another disk",
        )  # fmt: skip
    if error.errno in _CLOSED:
        return failure(
            url, folder, f"that folder takes no files: {one_line(error)}{needed}",
            f"Set TORCH_HOME to a folder that does, or have the file put there as {target}",
        )  # fmt: skip
    return failure(
        url, folder, f"that folder or its disk failed: {one_line(error)}",
        "Check them, or set TORCH_HOME to another folder",
    )  # fmt: skip


def _free(folder: Path) -> str:
    try:
        return f", with {_megabytes(shutil.disk_usage(folder).free)} free"
    except OSError:
        return ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
