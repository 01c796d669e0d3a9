"""Find weights files on this machine by their names, without reading them.

The files of URLs are in torch hub's cache, those of the Hugging Face hub in the cache of
huggingface_hub, and others in installed packages. This module imports neither torch nor
huggingface_hub.
"""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstrip.errors import WeightsError
from headstrip.spec import WeightsEntry
from headstrip.system.atomic import is_abandoned
from headstrip.weights.addresses import checkpoints
from headstrip.weights.folders import file_in_package, file_of_location, hub_folder, names_in
from headstrip.weights.hub import cached_file, parse
from headstrip.weights.sharded_checkpoint import is_index, read_index
from headstrip.weights.trust import Expectation, cached_path, expectation

REPAIR_SUFFIX = ".again"
"""Suffix of the file that a repair downloads to, beside the file that it repairs."""

_UNFINISHED = re.compile(r"(.+?)(?:\.again|(?:\.again)?\.[0-9a-f]+\.partial)")

Origin = Literal["download", "hub", "package", "own"]


@dataclass(frozen=True, slots=True)
class WeightsLocation:
    """One set of weights, and the path of its file.

    Attributes:
        name: The shortest name of the weights, such as ``resnet50.IMAGENET1K_V2``.
        entry: The weights.
        location: The location of the entry that ``path`` belongs to.
        path: The path of the file, which may not exist yet. For a checkpoint in several files,
            the path of their index.
        origin: ``download`` for a file of torch hub's cache, ``hub`` for one of the Hugging Face
            hub's cache, ``package`` for one of an installed package, ``own`` for a file that the
            catalog names by its path.
        is_here: Whether the file exists.
    """

    name: str
    entry: WeightsEntry
    location: str
    path: Path
    origin: Origin
    is_here: bool

    @property
    def url(self) -> str | None:
        """The address that headstrip downloads the file from, or None if it has no URL."""
        return self.location if self.origin == "download" else None

    @property
    def package(self) -> str:
        """The distribution that contains the file, if the origin is ``package``."""
        return self.location.removeprefix("dist:").partition("/")[0]

    @property
    def repository(self) -> Path:
        """The folder of the repository, if the origin is ``hub``."""
        return hub_folder() / parse(self.location).folder

    @property
    def snapshot(self) -> Path:
        """The folder of the revision, if the origin is ``hub``."""
        snapshots = self.repository / "snapshots"
        return snapshots / self.path.relative_to(snapshots).parts[0]

    def files(self) -> tuple[Path, ...]:
        """Return the files that contain the tensors: one file, or those that the index names."""
        if not is_index(self.path):
            return (self.path,)
        try:
            shards = sorted(set(read_index(self.path).values()))
        except WeightsError:
            # The index itself is damaged.
            return (self.path,)
        return tuple(self.path.parent / name for name in shards)

    def expected(self, file: Path) -> Expectation:
        """Return the expected sha256 of one of the files."""
        catalog = "" if is_index(self.path) else self.entry.sha256
        return expectation(file, catalog, url=self.url)


class Caches:
    """The contents of the two download caches at the time when this object is created."""

    def __init__(self) -> None:
        """List the folders of torch hub and of the Hugging Face hub."""
        self.downloads = checkpoints()
        self.hub = hub_folder()
        self._downloaded = names_in(self.downloads)
        self._repositories = names_in(self.hub)
        self._unfinished: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._downloaded:
            if match := _UNFINISHED.fullmatch(name):
                self._unfinished[match[1]].append(name)

    def find(self, name: str, entry: WeightsEntry) -> WeightsLocation | None:
        """Return the first location of a set of weights whose file exists.

        If no file exists, return the location where the user can put one most easily. Return None
        for weights without locations, because their plugin loads them itself.
        """
        missing: list[WeightsLocation] = []
        for location in entry.locations:
            try:
                path, origin, is_here = self._look(location, entry.sha256)
            except (ValueError, WeightsError):
                # The location is malformed. `locate` reports that.
                continue
            weights = WeightsLocation(name, entry, location, path, origin, is_here)
            if is_here:
                return weights
            missing.append(weights)
        # A user can put a file into torch hub's cache, but not into the links of the hub's cache.
        missing.sort(key=lambda weights: weights.origin == "hub")
        return missing[0] if missing else None

    def partials(self, entry: WeightsEntry) -> list[Path]:
        """Return the files that unfinished downloads of a set of weights left behind."""
        found: list[Path] = []
        for location in entry.locations:
            # A malformed location has no files. `locate` reports it.
            with suppress(ValueError, WeightsError):
                if location.startswith("hf:"):
                    folder = parse(location).folder
                    if folder in self._repositories:
                        blobs = (self.hub / folder / "blobs").glob("*.incomplete")
                        found += sorted(filter(_is_left, blobs))
                elif location.startswith(("https://", "http://")):
                    path = cached_path(location, entry.sha256)
                    names = self._unfinished.get(path.name, [])
                    paths = [self.downloads / name for name in sorted(names)]
                    found += [one for one in paths if one.suffix == REPAIR_SUFFIX or _is_left(one)]
        return found

    def _look(self, location: str, sha256: str) -> tuple[Path, Origin, bool]:
        """Return the path of a location's file, its origin, and whether it exists."""
        if location.startswith(("https://", "http://")):
            path = cached_path(location, sha256)
            return path, "download", path.name in self._downloaded
        if location.startswith("hf:"):
            parts = parse(location)
            found = cached_file(parts, parts.names) if parts.folder in self._repositories else None
            return found or self.hub / parts.folder, "hub", found is not None
        if location.startswith("dist:"):
            found = file_in_package(location)
            if found is None:
                return Path(location.partition("/")[2]), "package", False
            return found, "package", found.is_file()
        path = file_of_location(location)
        return path, "own", path.is_file()


def _is_left(path: Path) -> bool:
    try:
        return is_abandoned(path.stat().st_mtime)
    except OSError:
        return False
