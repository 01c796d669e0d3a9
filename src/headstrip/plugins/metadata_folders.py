"""Folders of installed distributions that are damaged, and the plugins that they hide.

Python takes the first folder that has a distribution's name, even an empty one, and ignores a
complete one after it. An interrupted installation leaves such folders.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import groupby
from pathlib import Path

from headstrip.plugins import COMMAND_GROUP, ENGINE_GROUP, ENTRY_POINT_GROUP

_SUFFIXES = (".dist-info", ".egg-info")
_LEFTOVER = "~"
_ENTRY_POINTS = "entry_points.txt"
# How pip renames a folder before it removes it: ~eadstrip_timm, ~-adstrip_timm.
_OURS = re.compile(r"~[-~.=%0-9]*h?e?a?d?strip")
_NAME = re.compile(rb"^Name:\s*\S", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DamagedFolder:
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
    """Return the damaged folders on the path because of which a plugin may be missing.

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
            damage = replace(damage, hides=_hidden_by(folder, folders))
            concerns_us = damage.may_be_plugin or damage.hides or name.startswith("headstrip")
            if concerns_us or damage.stops_python:
                found.append(damage)
    return found + _our_leftovers()


def damage_of(source: str) -> str:
    """Return the sentences for an error about a source that is missing for a damaged folder."""
    name = f"headstrip-{source}"
    folders = next((found for other, found in _by_name() if other == name), [])
    damaged = [
        damage
        for folder in folders
        if (damage := _damage(folder)) is not None and not _hidden_by(folder, folders)
    ]
    damaged += [one for one in _our_leftovers() if one.distribution == name]
    return "".join(f" {one.found}. {one.remedy}" for one in damaged)


def without_damage(points: list[metadata.EntryPoint], group: str) -> list[metadata.EntryPoint]:
    """Remove the entry points that damaged folders name, and add those that they hide.

    Args:
        points: The entry points of the group that Python sees.
        group: The entry-point group.
    """
    # Most distributions have one folder. It is not opened here, because listing must be fast.
    hiding = {
        damaged: complete
        for _, folders in _by_name()
        if len(folders) > 1
        for damaged in folders
        if _damage(damaged) and (complete := _hidden_by(damaged, folders))
    }
    kept = [point for point in points if not _is_of(point.dist, hiding)]
    return kept + [
        point
        for complete in hiding.values()
        for point in _entry_points_of(complete)
        if point.group == group
    ]


def _is_of(distribution: metadata.Distribution | None, folders: Iterable[Path]) -> bool:
    """Whether a distribution's folder is one of ``folders``, or one that pip renamed."""
    # importlib.metadata has no public name for the folder of a distribution.
    folder = getattr(distribution, "_path", None)
    if folder is None:
        return False
    return Path(str(folder)).name.startswith(_LEFTOVER) or Path(str(folder)) in folders


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
    folders = [folder for folder in _folders() if not folder.name.startswith(_LEFTOVER)]
    for name, group in groupby(sorted(folders, key=_name_of), key=_name_of):
        yield name, list(group)


def _name_of(folder: Path) -> str:
    return re.sub(r"[-_.]+", "-", folder.stem.partition("-")[0]).lower()


def _our_leftovers() -> list[DamagedFolder]:
    return [
        DamagedFolder(folder, _leftover_name(folder), "was left by an interrupted pip")
        for folder in _folders()
        if _is_our_leftover(folder)
    ]


def _is_our_leftover(folder: Path) -> bool:
    return folder.name.startswith(_LEFTOVER) and (
        _OURS.match(folder.name.lower()) is not None or bool(_entry_points_of(folder))
    )


def _leftover_name(folder: Path) -> str:
    """Return the name of a distribution whose folder pip renamed."""
    match = re.search(rb"^Name:\s*(\S+)", _read(folder / "METADATA") or b"", re.MULTILINE)
    if match:
        return match[1].decode("utf-8", "replace")
    return _name_of(Path(_OURS.sub("headstrip", folder.name.lower())))


def _damage(folder: Path) -> DamagedFolder | None:
    """Return what is wrong with a folder itself, None where it is complete."""
    distribution = _name_of(folder)
    if folder.suffix == ".egg-info" and not folder.is_dir():
        # One file with the content of a folder's PKG-INFO.
        if _read(folder):
            return None
        return DamagedFolder(folder, distribution, "is empty or cannot be read")
    if not folder.is_dir():
        return DamagedFolder(folder, distribution, "is a file and not a folder")
    name = "METADATA" if folder.suffix == ".dist-info" else "PKG-INFO"
    content, points = _read(folder / name), _read(folder / _ENTRY_POINTS)
    stops_python = points is not None and not _is_text(points)
    if content is None or not _NAME.search(content) or not _is_text(content):
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
        return None if _are_entry_points(content) else f"has a damaged {_ENTRY_POINTS}"
    recorded = re.search(
        rb"^[^,\n]*/entry_points\.txt,[^,\n]*,(\d*)\s*$",
        _read(folder / "RECORD") or b"",
        re.MULTILINE,
    )
    if recorded is None or recorded[1] == b"0":
        return None
    return f"{'has lost its' if content is None else 'has an empty'} {_ENTRY_POINTS}"


def _are_entry_points(content: bytes) -> bool:
    """Whether a file is what the packaging specification says: sections of ``name = object``.

    Python's own reader skips what it does not understand.
    """
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    try:
        parser.read_string(content.decode())
    except (UnicodeDecodeError, configparser.Error):
        return False
    return True


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _hidden_by(damaged: Path, folders: list[Path]) -> Path | None:
    """Return the first complete folder, if it names a plugin and a damaged one hides it.

    Which of two folders in one place Python takes first depends on the file system.
    """
    complete = next((folder for folder in folders if _damage(folder) is None), None)
    if complete is None or not _entry_points_of(complete):
        return None
    is_first = folders.index(damaged) < folders.index(complete)
    return complete if is_first or damaged.parent == complete.parent else None


def _entry_points_of(folder: Path) -> list[metadata.EntryPoint]:
    """Return the plugins, commands and engines that a folder names, none where it is damaged."""
    groups = (ENTRY_POINT_GROUP, COMMAND_GROUP, ENGINE_GROUP)
    try:
        return [one for one in metadata.Distribution.at(folder).entry_points if one.group in groups]
    except Exception:
        # Damaged metadata raise any error; `_damage` says what is wrong with them.
        return []


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
