"""Weights files removed, with everything that belongs to them alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from headstrip.errors import WeightsError, one_line
from headstrip.weights.caches import Caches, WeightsLocation
from headstrip.weights.records import copy_of, forget


def removable(weights: WeightsLocation) -> list[Path]:
    """Return what ``remove`` takes away: files, partial downloads and optimized copies.

    Raises:
        WeightsError: It belongs to a package, or is the user's own file.
    """
    if weights.origin == "package":
        raise WeightsError(
            f"{weights.path}, the file of {weights.name}, belongs to the package "
            f"{weights.package!r}. Run `pip uninstall {weights.package}`, or leave it."
        )
    if weights.origin == "own":
        raise WeightsError(
            f"{weights.path}, the file of {weights.name}, is in no cache: its catalog names it by "
            "its path. Remove it yourself, or leave it."
        )
    # The files that an index names go before the index.
    named = dict.fromkeys((*weights.files(), weights.path)) if weights.is_here else {}
    files = [file for file in named if file.is_file()]
    copies = [copy for file in files if (copy := copy_of(file)) is not None]
    return [*files, *copies, *Caches().partials(weights.entry)]


def remove(weights: WeightsLocation) -> None:
    """Remove a set of weights and what belongs to it.

    In the hub's cache a file that another revision links to as well stays for that one.

    Raises:
        WeightsError: It is not ours to remove, or cannot be.
    """
    for path in removable(weights):
        try:
            if weights.origin == "hub" and path.is_symlink():
                _remove_link(path, weights.repository)
            else:
                forget(path)
                path.unlink(missing_ok=True)
        except OSError as error:
            raise WeightsError(
                f"{path} cannot be removed ({one_line(error)}). Check the permissions of "
                "its folder."
            ) from error
    if weights.origin == "hub" and weights.is_here:
        _tidy(weights.repository, weights.snapshot)


def _remove_link(link: Path, repository: Path) -> None:
    """Remove a link of the hub's cache, and the file it leads to if it was the last one."""
    blob = Path(os.path.realpath(link))
    link.unlink()
    if not any(os.path.realpath(other) == str(blob) for other in _links(repository / "snapshots")):
        forget(blob)
        blob.unlink(missing_ok=True)


def _links(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(root, name)).is_symlink())


def _tidy(repository: Path, snapshot: Path) -> None:
    """Remove a revision without files, what names it, and a repository without revisions."""
    with suppress(OSError):
        for root, _, _ in os.walk(snapshot, topdown=False):
            # A folder with files in it is not removed: the first one ends this.
            os.rmdir(root)
        for root, _, names in os.walk(repository / "refs"):
            for name in names:
                reference = Path(root, name)
                if reference.read_text(encoding="utf-8").strip() == snapshot.name:
                    reference.unlink()
        if not _entries(snapshot.parent) and not _entries(repository / "blobs"):
            shutil.rmtree(repository)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
