"""Entry points of installed distributions, read from their metadata without importing anything."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from headstrip.errors import PluginError
from headstrip.plugins.metadata_folders import without_damage
from headstrip.plugins.records import DISABLED, SHARED
from headstrip.system.os_errors import explain_exhaustion


@dataclass(frozen=True, slots=True)
class Declared:
    """One name of an entry-point group.

    Attributes:
        name: The name.
        point: The first entry point that has the name.
        origin: Name and version of each distribution that declares the name.
        problem: Why the name cannot be used, or None.
    """

    name: str
    point: metadata.EntryPoint
    origin: str
    problem: str | None

    @property
    def module(self) -> str:
        """Dotted name of the module that the entry point names."""
        return self.point.value.partition(":")[0].strip()

    def load(self) -> Any:
        """Import what the entry point names.

        Raises:
            PluginError: Importing it raised any error. The message is only the reason.
        """
        try:
            return load_entry_point(self.point)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Importing a plugin runs its code, which can raise anything, SystemExit too.
            raise PluginError(reason_of(error)) from error


def declared(group: str, disabled: Collection[str], reserved: Collection[str]) -> list[Declared]:
    """List the names of an entry-point group, sorted.

    Args:
        group: The group.
        disabled: Names that the user does not want; ``*`` is all.
        reserved: Names that belong to headstrip.
    """
    by_name: dict[str, list[metadata.EntryPoint]] = {}
    for point in installed_entry_points(group):
        by_name.setdefault(point.name, []).append(point)
    found = []
    for name, points in sorted(by_name.items()):
        origin = ", ".join(sorted(" ".join(_distribution(point)) for point in points))
        problem = None
        if {name, "*"} & set(disabled):
            problem = DISABLED
        elif name in reserved:
            problem = f"the name {name!r} belongs to headstrip itself"
        elif len(points) > 1:
            problem = f"{SHARED} {name!r}"
        found.append(Declared(name, points[0], origin, problem))
    return found


def load_entry_point(point: metadata.EntryPoint) -> Any:
    """Import what an entry point names.

    Raises:
        PluginError: Its value names no module. Importing the module can raise any other error.
    """
    # `EntryPoint.load` would raise an AttributeError that does not say so.
    if point.pattern.match(point.value) is None:
        raise PluginError(f"the entry point {point.value!r} is not of the form module:name")
    return point.load()


def installed_entry_points(group: str) -> list[metadata.EntryPoint]:
    """List the entry points of a group, those of distributions earlier on the path first.

    It skips distributions with damaged metadata, which `headstrip doctor` names, and adds the entry
    points that a damaged folder hides.
    """
    try:
        found = list(metadata.entry_points(group=group))
    except Exception:
        # The metadata of any distribution can raise any error here. Reading one by one skips it.
        found = [
            point for one in metadata.distributions() for point in _entry_points_of(one, group)
        ]
    found = without_damage(found, group)
    # A distribution may be on the path twice; Python imports the first.
    unique: dict[tuple[str, str, str], metadata.EntryPoint] = {}
    for point in found:
        unique.setdefault((point.name, point.value, _distribution(point)[0]), point)
    return list(unique.values())


def reason_of(error: BaseException) -> str:
    """Return what went wrong in a plugin, on one line."""
    if isinstance(error, PluginError):
        return str(error)
    text = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return explain_exhaustion(error, reason) or reason


def _entry_points_of(distribution: metadata.Distribution, group: str) -> list[metadata.EntryPoint]:
    try:
        return list(distribution.entry_points.select(group=group))
    except Exception:
        # `headstrip doctor` names damaged metadata.
        return []


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    """Return name and version of the distribution that declares an entry point."""
    try:
        described: Any = point.dist.metadata if point.dist else {}
        return str(described["Name"] or "unnamed"), str(described["Version"] or "unknown")
    except Exception:
        # Versions of Python raise different errors where the metadata are missing or no text.
        return "unnamed", "unknown"
