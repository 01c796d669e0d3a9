"""Remove weights files, and everything that belongs only to them."""

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
    """Return the files that ``remove`` removes: weights, partial downloads and optimized copies.

    Raises:
        WeightsError: The file belongs to a package, or to the user.
    """
    if weights.origin == "package":
        raise WeightsError(
            f"headstrip does not remove {weights.path}, the file of {weights.name}: it belongs to "
            f"the package {weights.package!r}. Run `pip uninstall {weights.package}` to remove it."
        )
    if weights.origin == "own":
        raise WeightsError(
            f"headstrip does not remove {weights.path}, the file of {weights.name}: it is not in a "
            "cache, and the catalog names it by its path. Remove it yourself."
        )
    # Remove the index last: it names the other files.
    named = dict.fromkeys((*weights.files(), weights.path)) if weights.is_here else {}
    files = [file for file in named if file.is_file()]
    copies = [copy for file in files if (copy := copy_of(file)) is not None]
    return [*files, *copies, *Caches().partials(weights.entry)]


def remove(weights: WeightsLocation) -> None:
    """Remove a set of weights and everything that belongs to it.

    A file in the hub's cache stays if another revision links to it.

    Raises:
        WeightsError: headstrip does not own the file, or cannot remove it.
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
                f"headstrip cannot remove {path} ({one_line(error)}). Check the permissions of the "
                "folder."
            ) from error
    if weights.origin == "hub" and weights.is_here:
        _tidy(weights.repository, weights.snapshot)


def _remove_link(link: Path, repository: Path) -> None:
    """Remove a link in the hub's cache, and its file if no other link leads to it."""
    blob = Path(os.path.realpath(link))
    link.unlink()
    if not any(os.path.realpath(other) == str(blob) for other in _links(repository / "snapshots")):
        forget(blob)
        blob.unlink(missing_ok=True)


def _links(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(root, name)).is_symlink())


def _tidy(repository: Path, snapshot: Path) -> None:
    """Remove a revision without files and its branches, and a repository without revisions."""
    with suppress(OSError):
        for root, _, _ in os.walk(snapshot, topdown=False):
            # This raises an OSError at the first folder with files, which ends the tidying.
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
