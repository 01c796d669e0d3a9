"""Entry points of installed distributions, read from their metadata without importing anything.

``importlib.metadata`` reads the same files, but importing it takes as long as a quarter of
``headstrip list``, and it raises an error for all files if one is damaged.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import reduce
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from headstrip.errors import PluginError
from headstrip.plugins.metadata_folders import (
    ENTRY_POINTS,
    entry_points_in,
    folders_in_use,
    name_and_version,
    normalized,
    read,
)
from headstrip.plugins.records import DISABLED, SHARED
from headstrip.system.os_errors import explain_exhaustion

_VALUE = r"([\w.]+)\s*(?::\s*([\w.]+)\s*)?(?:\[.*\]\s*)?"
"""``module``, ``module:object`` or ``module:object.attribute``, and extras, which are ignored."""


class EntryPoint(NamedTuple):
    """One entry point.

    Attributes:
        name: Its name in the group.
        value: ``module:object``.
        distribution: Name and version of the distribution that declares it, None for headstrip's
            own.
        site: Folder that the distribution is installed in, None if it is in no folder.
    """

    name: str
    value: str
    distribution: tuple[str, str] | None = None
    site: Path | None = None

    def load(self) -> Any:
        """Import the object that the entry point names.

        Raises:
            PluginError: The value names no module. Importing the module can raise any other error.
        """
        match = re.fullmatch(_VALUE, self.value)
        if match is None:
            raise PluginError(f"the entry point {self.value!r} is not of the form module:name")
        names = match[2].split(".") if match[2] else ()
        return reduce(getattr, names, import_module(match[1]))


class Declared(NamedTuple):
    """One name of an entry-point group.

    Attributes:
        name: The name.
        point: The first entry point that has the name.
        origin: Name and version of each distribution that declares the name.
        problem: Why the name cannot be used, or None.
    """

    name: str
    point: EntryPoint
    origin: str
    problem: str | None

    @property
    def module(self) -> str:
        """Dotted name of the module that the entry point names."""
        return self.point.value.partition(":")[0].strip()

    def load(self) -> Any:
        """Import the object that the entry point names.

        Raises:
            PluginError: The import raised an error. The message is only the reason.
        """
        try:
            return self.point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Importing a plugin runs its code, which can raise anything, even SystemExit.
            raise PluginError(reason_of(error)) from error


def declared(group: str, disabled: Collection[str], reserved: Collection[str]) -> list[Declared]:
    """List the names of an entry-point group, sorted.

    Args:
        group: The group.
        disabled: Names that the user disabled; ``*`` means all.
        reserved: Names that belong to headstrip.
    """
    by_name: dict[str, list[EntryPoint]] = {}
    for point in installed_entry_points(group):
        by_name.setdefault(point.name, []).append(point)
    found = []
    for name, points in sorted(by_name.items()):
        origin = ", ".join(sorted(" ".join(point.distribution or ()) for point in points))
        problem = None
        if {name, "*"} & set(disabled):
            problem = DISABLED
        elif name in reserved:
            problem = f"the name {name!r} belongs to headstrip itself"
        elif len(points) > 1:
            problem = f"{SHARED} {name!r}"
        found.append(Declared(name, points[0], origin, problem))
    return found


def installed_entry_points(group: str) -> list[EntryPoint]:
    """List the entry points of a group.

    It skips files that are damaged, which `headstrip doctor` names, and adds the entry points that
    a damaged folder hides.
    """
    folders = dict(folders_in_use())
    found = [point for folder in folders.values() for point in _points_of(folder, group)]
    return found + _points_elsewhere(group, folders)


def reason_of(error: BaseException) -> str:
    """Return what went wrong in a plugin, on one line."""
    if isinstance(error, PluginError):
        return str(error)
    text = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return explain_exhaustion(error, reason) or reason


def _points_of(folder: Path, group: str) -> list[EntryPoint]:
    pairs = _pairs_in(read(folder / ENTRY_POINTS), group)
    if not pairs:
        return []
    distribution = name_and_version(folder)
    return [EntryPoint(name, value, distribution, folder.parent) for name, value in pairs]


def _points_elsewhere(group: str, seen: Collection[str]) -> list[EntryPoint]:
    """Return the entry points of distributions that are in no folder, but in a zip archive.

    Args:
        group: The group.
        seen: Names of the distributions that are in folders.
    """
    entries = [one for one in sys.path if os.path.isfile(one) or one.endswith(".egg")]
    has_hooks = any(
        finder is not PathFinder and hasattr(finder, "find_distributions")
        for finder in sys.meta_path
    )
    if not entries and not has_hooks:
        return []
    from importlib import metadata

    found: list[EntryPoint] = []
    named = set(seen)
    # The code of an import hook, or a damaged archive, can raise any error here.
    with suppress(Exception):
        for one in metadata.distributions(path=entries):
            with suppress(Exception):
                name, version = one.metadata["Name"], one.metadata["Version"]
                content = (one.read_text(ENTRY_POINTS) or "").encode()
                if normalized(name) not in named:
                    named.add(normalized(name))
                    pairs = _pairs_in(content, group)
                    found += [EntryPoint(point, value, (name, version)) for point, value in pairs]
    return found


def _pairs_in(content: bytes | None, group: str) -> list[tuple[str, str]]:
    """Return the names and values of a group, an empty list if the content is damaged."""
    # Most files name no group of headstrip, and need no parsing.
    if content is None or group.encode() not in content:
        return []
    return list(dict.fromkeys((entry_points_in(content) or {}).get(group, ())))
