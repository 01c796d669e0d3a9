"""Weights files removed, with everything that belongs to them alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from headstrip.errors import WeightsError, one_line
from headstrip.spec import WeightsEntry
from headstrip.weights.addresses import checkpoints, file_name
from headstrip.weights.caches import Stored
from headstrip.weights.folders import hub_folder
from headstrip.weights.hub import parse
from headstrip.weights.partial import leftovers
from headstrip.weights.records import forget, optimized, recorded
from headstrip.weights.sharded_checkpoint import is_index

# A download of the hub that is still running is written to all the time.
_UNTOUCHED = 600.0


def removable(stored: Stored) -> list[Path]:
    """Return what ``remove`` takes away: files, partial downloads and optimized copies.

    Raises:
        WeightsError: It belongs to a package, or is the user's own file.
    """
    if stored.origin == "package":
        raise WeightsError(
            f"{stored.path}, the file of {stored.name}, belongs to the package {stored.package!r}. "
            f"Run `pip uninstall {stored.package}`, or leave it."
        )
    if stored.origin == "own":
        raise WeightsError(
            f"{stored.path}, the file of {stored.name}, is in no cache: its catalog names it by "
            "its path. Remove it yourself, or leave it."
        )
    files = _files(stored) if stored.is_here else []
    copies = [copy for file in files if (copy := _optimized_copy(file)) is not None]
    return [*files, *copies, *partials(stored.entry)]


def remove(stored: Stored) -> None:
    """Remove a set of weights and what belongs to it.

    In the hub's cache a file that another revision links to as well stays for that one.

    Raises:
        WeightsError: It is not ours to remove, or cannot be.
    """
    for path in removable(stored):
        try:
            if stored.origin == "hub" and path.is_symlink():
                _remove_link(path)
            else:
                forget(path)
                path.unlink(missing_ok=True)
        except OSError as error:
            raise WeightsError(
                f"{path} cannot be removed ({one_line(error)}). Check who may write to its folder."
            ) from error
    if stored.origin == "hub" and stored.is_here:
        _tidy(_snapshot_of(stored))


def partials(entry: WeightsEntry) -> list[Path]:
    """Return what downloads of a set of weights left that did not come to their end."""
    found: list[Path] = []
    for location in entry.locations:
        # A location of no form that there is has no files; a build says so.
        with suppress(ValueError, WeightsError):
            if location.startswith("hf:"):
                blobs = hub_folder() / parse(location).folder / "blobs"
                incomplete = (one for one in _entries(blobs) if one.suffix == ".incomplete")
                found += filter(_is_left, incomplete)
            elif location.startswith(("https://", "http://")):
                target = checkpoints() / file_name(location)
                again = repaired_name(target)
                found += sorted(path for one in (target, again) for path in leftovers(one))
                found += [again] if again.is_file() else []
    return found


def repaired_name(target: Path) -> Path:
    """Return the name of a file on its way to the place of another, which is wrong."""
    return target.with_name(f"{target.name}.again")


def _is_left(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _UNTOUCHED
    except OSError:
        return False


def repository_of(stored: Stored) -> Path:
    """Return the folder of a repository in the hub's cache."""
    for folder in (stored.path, *stored.path.parents):
        if folder.name.startswith("models--"):
            return folder
    return stored.path


def _files(stored: Stored) -> list[Path]:
    index = [stored.path] if is_index(stored.path) else []
    return [*(file for file in stored.files() if file.is_file() and file not in index), *index]


def _optimized_copy(file: Path) -> Path | None:
    record = recorded(file)
    return optimized(record.sha256) if record is not None else None


def _remove_link(link: Path) -> None:
    """Remove a link of the hub's cache, and the file it leads to if it was the last one."""
    blob = Path(os.path.realpath(link))
    snapshots = _snapshots_above(link)
    link.unlink()
    if not any(os.path.realpath(other) == str(blob) for other in _links(snapshots)):
        forget(blob)
        blob.unlink(missing_ok=True)


def _snapshots_above(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.name == "snapshots")


def _snapshot_of(stored: Stored) -> Path:
    snapshots = _snapshots_above(stored.path)
    return snapshots / stored.path.relative_to(snapshots).parts[0]


def _links(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(root, name)).is_symlink())


def _tidy(snapshot: Path) -> None:
    """Remove a revision without files, what names it, and a repository without revisions."""
    repository = snapshot.parents[1]
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
