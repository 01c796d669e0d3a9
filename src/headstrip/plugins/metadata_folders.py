"""Read the folders with the metadata of installed distributions, and find damaged ones.

Python uses the first folder that has a distribution's name, even an empty one, and ignores a
complete one after it. An interrupted installation leaves such folders.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from headstrip.plugins import COMMAND_GROUP, ENGINE_GROUP, ENTRY_POINT_GROUP

_SUFFIXES = (".dist-info", ".egg-info")
_LEFTOVER = "~"
ENTRY_POINTS = "entry_points.txt"
"""The file in a distribution's metadata that names its entry points."""

# How pip renames a folder before it removes it: ~eadstrip_timm, ~-adstrip_timm.
_OURS = re.compile(r"~[-~.=%0-9]*h?e?a?d?strip")
_NAME = re.compile(rb"^Name:\s*\S", re.MULTILINE | re.IGNORECASE)


class DamagedFolder(NamedTuple):
    """One damaged folder of an installed distribution.

    Attributes:
        path: The folder.
        distribution: Name of the distribution, as far as the folder's name shows it.
        problem: What is wrong, in a clause without a subject, such as "is empty".
        may_be_plugin: Whether the folder may have named a plugin before it was damaged.
        stops_python: Whether Python raises an error when any program asks for entry points, as
            torch does when it is imported.
        hides: A complete folder of the same distribution that Python ignores, or None.
    """

    path: Path
    distribution: str
    problem: str
    may_be_plugin: bool = True
    stops_python: bool = False
    hides: Path | None = None

    @property
    def found(self) -> str:
        """What is wrong, as one sentence."""
        effect = f", and hides {self.hides}" if self.hides else ""
        return f"{self.path} {self.problem}{effect}"

    @property
    def remedy(self) -> str:
        """What to do, as one sentence."""
        if self.hides:
            return "Remove that folder."
        return (
            "Remove that folder, then run "
            f"`pip install --force-reinstall --no-deps {self.distribution}`."
        )


def damaged_folders() -> list[DamagedFolder]:
    """Return the damaged folders on the path that may make a plugin missing.

    These are folders of distributions whose name begins with headstrip, folders that hide a
    distribution with a plugin, folders without a readable METADATA, which may have been a
    plugin's, and folders that stop Python from reading entry points at all.
    """
    found = []
    for name, folders in _by_name():
        for folder in folders:
            damage = _damage(folder)
            if damage is None:
                continue
            damage = damage._replace(hides=_hidden_by(folder, folders))
            concerns_us = damage.may_be_plugin or damage.hides or name.startswith("headstrip")
            if concerns_us or damage.stops_python:
                found.append(damage)
    return found + _our_leftovers()


def damage_of(source: str) -> str:
    """Return sentences for an error about a missing source, which a damaged folder may explain."""
    name = f"headstrip-{source}"
    folders = next((found for other, found in _by_name() if other == name), [])
    damaged = [
        damage
        for folder in folders
        if (damage := _damage(folder)) is not None and not _hidden_by(folder, folders)
    ]
    damaged += [one for one in _our_leftovers() if one.distribution == name]
    return "".join(f" {one.found}. {one.remedy}" for one in damaged)


def folders_in_use() -> Iterator[tuple[str, Path]]:
    """Yield each installed distribution's name with one folder: the first complete one, if any.

    Most distributions have one folder. It is not opened here, because listing must be fast.
    """
    for name, folders in _by_name():
        complete = (folder for folder in folders if _damage(folder) is None)
        yield name, folders[0] if len(folders) == 1 else next(complete, folders[0])


def entry_points_in(content: bytes) -> dict[str, list[tuple[str, str]]] | None:
    r"""Parse the content of an ``entry_points.txt``.

    Returns:
        By group, the names with their values; None if the content does not follow the packaging
        specification: text with sections of ``name = value``.

    Example:
        >>> entry_points_in(b"[headstrip]\nacme = acme_net:plugin\n")
        {'headstrip': [('acme', 'acme_net:plugin')]}
    """
    lines = _lines(content)
    if lines is None:
        return None
    groups: dict[str, list[tuple[str, str]]] = {}
    pairs: list[tuple[str, str]] | None = None
    for line in lines:
        if line.startswith("[") and line.endswith("]"):
            pairs = groups.setdefault(line[1:-1].strip(), [])
        elif line and line[0] not in "#;":
            name, equals, value = line.partition("=")
            if pairs is None or not equals:
                return None
            pairs.append((name.strip(), value.strip()))
    return groups


def normalized(name: str) -> str:
    """Return the form of a distribution's name that all its spellings share.

    Example:
        >>> normalized("Acme_Networks.timm")
        'acme-networks-timm'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def name_and_version(folder: Path) -> tuple[str, str]:
    """Return the name and the version that a folder's metadata state.

    Returns:
        ``("unnamed", "unknown")`` if they cannot be read.
    """
    found: dict[str, str] = {}
    # The headers end at an empty line, like those of an e-mail.
    for line in takewhile(bool, _lines(read(folder / _file_of(folder)) or b"") or ()):
        key, _, value = line.partition(":")
        found.setdefault(key.lower(), value.strip())
    return found.get("name") or "unnamed", found.get("version") or "unknown"


def _folders() -> Iterator[Path]:
    """Yield all metadata folders in the order of the path, each once."""
    seen = set()
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry or os.curdir)
        try:
            names = sorted(name for name in os.listdir(folder) if name.lower().endswith(_SUFFIXES))
            where = folder.resolve()
        except OSError:
            # A zip archive, or a folder that does not exist.
            continue
        if where not in seen:
            seen.add(where)
            yield from (folder / name for name in names)


def _by_name() -> Iterator[tuple[str, list[Path]]]:
    """Yield each distribution's name with its folders, the first on the path first."""
    found: dict[str, list[Path]] = {}
    for folder in _folders():
        if not folder.name.startswith(_LEFTOVER):
            found.setdefault(_name_of(folder), []).append(folder)
    yield from found.items()


def _name_of(folder: Path) -> str:
    return normalized(folder.stem.partition("-")[0])


def _our_leftovers() -> list[DamagedFolder]:
    return [
        DamagedFolder(folder, _leftover_name(folder), "was left by an interrupted pip")
        for folder in _folders()
        if _is_our_leftover(folder)
    ]


def _is_our_leftover(folder: Path) -> bool:
    return folder.name.startswith(_LEFTOVER) and (
        _OURS.match(folder.name.lower()) is not None or _may_have_plugin(folder)
    )


def _leftover_name(folder: Path) -> str:
    """Return the name of a distribution whose folder pip renamed."""
    match = re.search(rb"^Name:\s*(\S+)", read(folder / "METADATA") or b"", re.MULTILINE)
    if match:
        return match[1].decode("utf-8", "replace")
    return _name_of(Path(_OURS.sub("headstrip", folder.name.lower())))


def _damage(folder: Path) -> DamagedFolder | None:
    """Return what is wrong with a folder itself, None if it is complete."""
    distribution = _name_of(folder)
    if folder.suffix == ".egg-info" and not folder.is_dir():
        # One file with the content of a folder's PKG-INFO.
        if read(folder):
            return None
        return DamagedFolder(folder, distribution, "is empty or cannot be read")
    if not folder.is_dir():
        return DamagedFolder(folder, distribution, "is a file and not a folder")
    name = _file_of(folder)
    content, points = read(folder / name), read(folder / ENTRY_POINTS)
    stops_python = points is not None and _lines(points) is None
    if content is None or not _NAME.search(content) or _lines(content) is None:
        problem = _problem_of_metadata(folder, name, content)
        return DamagedFolder(folder, distribution, problem, stops_python=stops_python)
    found = _problem_of_entry_points(folder, points)
    if found is None:
        return None
    may_be_plugin = ENTRY_POINT_GROUP.encode() in (points or b"")
    return DamagedFolder(folder, distribution, found, may_be_plugin, stops_python)


def _problem_of_metadata(folder: Path, name: str, content: bytes | None) -> str:
    try:
        is_empty = not any(folder.iterdir())
    except OSError:
        is_empty = False
    if is_empty:
        return "is empty"
    return f"has no {name} that can be read" if content is None else f"has a damaged {name}"


def _problem_of_entry_points(folder: Path, content: bytes | None) -> str | None:
    if content:
        return None if entry_points_in(content) is not None else f"has a damaged {ENTRY_POINTS}"
    recorded = re.search(
        rb"^[^,\n]*/entry_points\.txt,[^,\n]*,(\d*)\s*$",
        read(folder / "RECORD") or b"",
        re.MULTILINE,
    )
    if recorded is None or recorded[1] == b"0":
        return None
    return f"{'has lost its' if content is None else 'has an empty'} {ENTRY_POINTS}"


def _file_of(folder: Path) -> str:
    """Return the name of the file in which a folder states its distribution's name."""
    return "METADATA" if folder.suffix == ".dist-info" else "PKG-INFO"


def _lines(content: bytes) -> list[str] | None:
    """Return the lines of a file without the spaces around them, None if it is not text."""
    try:
        return [line.strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError:
        return None


def _hidden_by(damaged: Path, folders: list[Path]) -> Path | None:
    """Return the first complete folder, if it names a plugin and a damaged one hides it.

    Which of two folders in one place Python takes first depends on the file system.
    """
    complete = next((folder for folder in folders if _damage(folder) is None), None)
    if complete is None or not _may_have_plugin(complete):
        return None
    is_first = folders.index(damaged) < folders.index(complete)
    return complete if is_first or damaged.parent == complete.parent else None


def _may_have_plugin(folder: Path) -> bool:
    """Whether a folder names a plugin, a command or an engine."""
    groups = entry_points_in(read(folder / ENTRY_POINTS) or b"") or {}
    return any(groups.get(group) for group in (ENTRY_POINT_GROUP, COMMAND_GROUP, ENGINE_GROUP))


def read(path: Path) -> bytes | None:
    """Return the content of a file of metadata, None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
