"""Which weights files are on this machine, found by looking at names and sizes alone.

Files of URLs are in torch hub's cache, files of the Hugging Face hub in that of huggingface_hub,
others in installed packages. Neither torch nor huggingface_hub is imported for it.
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
from headstrip.weights.addresses import checkpoints, file_name
from headstrip.weights.folders import file_in_package, file_of_location, hub_folder, names_in
from headstrip.weights.hub import cached_file, parse
from headstrip.weights.sharded_checkpoint import is_index, read_index
from headstrip.weights.trust import Expectation, expectation

REPAIR_SUFFIX = ".again"
"""What a file's name ends with while a fresh copy of it is on its way to its place."""

_UNFINISHED = re.compile(r"(.+?)(?:\.again|(?:\.again)?\.[0-9a-f]+\.partial)")

Origin = Literal["download", "hub", "package", "own"]


@dataclass(frozen=True, slots=True)
class WeightsLocation:
    """One set of weights, and where its file is or would have to be.

    Attributes:
        name: Shortest name that means it, such as ``resnet50.IMAGENET1K_V2``.
        entry: The weights.
        location: The location of the entry that ``path`` is of.
        path: The file; of a checkpoint in several files, their index.
        origin: Which cache it is in: ``download`` for torch hub's, ``hub``, ``package``, or
            ``own`` for a file that the catalog names by its path.
        is_here: Whether there is such a file.
    """

    name: str
    entry: WeightsEntry
    location: str
    path: Path
    origin: Origin
    is_here: bool

    @property
    def url(self) -> str | None:
        """Where it is downloaded from, None when not from a URL."""
        return self.location if self.origin == "download" else None

    @property
    def package(self) -> str:
        """The distribution that brings it, for one whose origin is a package."""
        return self.location.removeprefix("dist:").partition("/")[0]

    @property
    def repository(self) -> Path:
        """The folder of its repository, for one whose origin is the hub."""
        return hub_folder() / parse(self.location).folder

    @property
    def snapshot(self) -> Path:
        """The folder of its revision, for one whose origin is the hub."""
        snapshots = self.repository / "snapshots"
        return snapshots / self.path.relative_to(snapshots).parts[0]

    def files(self) -> tuple[Path, ...]:
        """Return the files that hold its tensors: one, or those that an index names."""
        if not is_index(self.path):
            return (self.path,)
        try:
            shards = sorted(set(read_index(self.path).values()))
        except WeightsError:
            # The index itself is what is wrong.
            return (self.path,)
        return tuple(self.path.parent / name for name in shards)

    def expected(self, file: Path) -> Expectation:
        """Say which bytes one of its files must have."""
        catalog = "" if is_index(self.path) else self.entry.sha256
        return expectation(file, catalog, url=self.url)


class Caches:
    """The caches of this machine at the time when this is created."""

    def __init__(self) -> None:
        """List the two folders."""
        self.downloads = checkpoints()
        self.hub = hub_folder()
        self._downloaded = names_in(self.downloads)
        self._repositories = names_in(self.hub)
        self._unfinished: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._downloaded:
            if match := _UNFINISHED.fullmatch(name):
                self._unfinished[match[1]].append(name)

    def find(self, name: str, entry: WeightsEntry) -> WeightsLocation | None:
        """Return the first file of a set of weights that is here, else where one would have to be.

        It is None for weights without any location, which their plugin loads itself.
        """
        missing: list[WeightsLocation] = []
        for location in entry.locations:
            try:
                path, origin, is_here = self._look(location)
            except (ValueError, WeightsError):
                # A location of no form that there is; a build says so.
                continue
            weights = WeightsLocation(name, entry, location, path, origin, is_here)
            if is_here:
                return weights
            missing.append(weights)
        # One file can be put into torch hub's cache by hand; the hub's has folders and links.
        missing.sort(key=lambda weights: weights.origin == "hub")
        return missing[0] if missing else None

    def partials(self, entry: WeightsEntry) -> list[Path]:
        """Return what downloads of a set of weights left that did not come to their end."""
        found: list[Path] = []
        for location in entry.locations:
            # A location of no form that there is has no files; a build says so.
            with suppress(ValueError, WeightsError):
                if location.startswith("hf:"):
                    folder = parse(location).folder
                    if folder in self._repositories:
                        blobs = (self.hub / folder / "blobs").glob("*.incomplete")
                        found += sorted(filter(_is_left, blobs))
                elif location.startswith(("https://", "http://")):
                    names = self._unfinished.get(file_name(location), [])
                    paths = [self.downloads / name for name in sorted(names)]
                    found += [
                        path for path in paths if path.suffix == REPAIR_SUFFIX or _is_left(path)
                    ]
        return found

    def _look(self, location: str) -> tuple[Path, Origin, bool]:
        if location.startswith(("https://", "http://")):
            path = self.downloads / file_name(location)
            return path, "download", path.name in self._downloaded
        if location.startswith("hf:"):
            place = parse(location)
            found = cached_file(place, place.names) if place.folder in self._repositories else None
            return found or self.hub / place.folder, "hub", found is not None
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
