"""Folders of installed distributions that are damaged, and the plugins that they hide.

Python takes the first folder that has a distribution's name, an empty one too, and does not look at
a complete one after it. An installation that was interrupted leaves such folders.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path

from headstrip.hookspecs import ENTRY_POINT_GROUP

_SUFFIXES = (".dist-info", ".egg-info")
_LEFTOVER = "~"
_ENTRY_POINTS = "entry_points.txt"
# How pip renames a folder that it is about to remove: ~eadstrip_timm, ~-adstrip_timm.
_OURS = re.compile(r"~[-~.=%0-9]*h?e?a?d?strip")
_NAME = re.compile(rb"^Name:\s*\S", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DamagedFolder:
    """One folder that does not say what is installed.

    Attributes:
        path: The folder.
        distribution: Name of the distribution, as far as the folder's name shows it.
        problem: What is wrong, in a clause without a subject, such as "is empty".
        hides: A complete folder of the same distribution that Python does not look at, or None.
    """

    path: Path
    distribution: str
    problem: str
    hides: Path | None = None

    @property
    def found(self) -> str:
        """What is wrong, in a sentence."""
        effect = f", and hides {self.hides}" if self.hides else ""
        return f"{self.path} {self.problem}{effect}"

    @property
    def remedy(self) -> str:
        """What to do, in a sentence."""
        if self.hides:
            return "Remove that folder."
        return (
            "Remove that folder, then run "
            f"`pip install --force-reinstall --no-deps {self.distribution}`."
        )


def damaged_folders() -> list[DamagedFolder]:
    """Return the damaged folders on the path that a plugin may be missing for.

    These are folders of distributions whose name begins with headstrip, folders that hide a
    distribution with a plugin, and folders without a readable METADATA: nobody can say whether
    such a distribution has a plugin.
    """
    found = []
    for name, folders in _by_name():
        for folder in folders:
            problem, is_unreadable = _damage(folder)
            if problem is None:
                continue
            hides = _hidden_by(folder, folders)
            if hides or is_unreadable or name.startswith("headstrip"):
                found.append(DamagedFolder(folder, name, problem, hides))
    return found + _our_leftovers()


def damage_of(source: str) -> str:
    """Return the sentences to add where a source is missing because a folder is damaged."""
    name = f"headstrip-{source}"
    folders = next((found for other, found in _by_name() if other == name), [])
    damaged = [
        DamagedFolder(folder, name, problem)
        for folder in folders
        if (problem := _damage(folder)[0]) is not None and not _hidden_by(folder, folders)
    ]
    damaged += [one for one in _our_leftovers() if one.distribution == name]
    return "".join(f" {one.found}. {one.remedy}" for one in damaged)


def without_damage(points: list[metadata.EntryPoint]) -> list[metadata.EntryPoint]:
    """Take from entry points what damaged folders name, and add what they hide.

    Args:
        points: The entry points of plugins that Python sees.
    """
    # Most distributions have one folder, which is not opened here: listing has to be quick.
    hiding = {
        damaged: complete
        for _, folders in _by_name()
        if len(folders) > 1
        for damaged in folders
        if _damage(damaged)[0] and (complete := _hidden_by(damaged, folders))
    }
    kept = [point for point in points if not _is_of(point.dist, hiding)]
    return kept + [point for complete in hiding.values() for point in _plugins_of(complete)]


def _is_of(distribution: metadata.Distribution | None, folders: Iterable[Path]) -> bool:
    """Whether a distribution is that of one of some folders, or of one that pip renamed."""
    # importlib.metadata does not say in public which folder a distribution is.
    folder = getattr(distribution, "_path", None)
    if folder is None:
        return False
    return Path(str(folder)).name.startswith(_LEFTOVER) or Path(str(folder)) in folders


def _folders() -> Iterator[Path]:
    """Yield all folders of metadata in the order of the path, each once."""
    seen = set()
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry or os.curdir)
        try:
            names = sorted(name for name in os.listdir(folder) if name.lower().endswith(_SUFFIXES))
            where = folder.resolve()
        except OSError:
            # A zip archive, or a folder that is not there.
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
        _OURS.match(folder.name.lower()) is not None or bool(_plugins_of(folder))
    )


def _leftover_name(folder: Path) -> str:
    """Return the name of a distribution whose folder pip renamed."""
    match = re.search(rb"^Name:\s*(\S+)", _read(folder / "METADATA") or b"", re.MULTILINE)
    if match:
        return match[1].decode("utf-8", "replace")
    return _name_of(Path(_OURS.sub("headstrip", folder.name.lower())))


def _damage(folder: Path) -> tuple[str | None, bool]:
    """Say what is wrong with a folder, and whether that keeps anybody from saying what it is."""
    if folder.suffix == ".egg-info" and not folder.is_dir():
        # One file that has what a folder has in PKG-INFO.
        return (None, False) if _read(folder) else ("is empty or cannot be read", True)
    if not folder.is_dir():
        return "is a file and not a folder", True
    name = "METADATA" if folder.suffix == ".dist-info" else "PKG-INFO"
    content = _read(folder / name)
    if content is None or not _NAME.search(content) or not _is_text(content):
        return _without_metadata(folder, name, content), True
    return _without_entry_points(folder)


def _without_metadata(folder: Path, name: str, content: bytes | None) -> str:
    if not _has_files(folder):
        return "is empty"
    if content is None:
        return f"has no {name} that can be read"
    return f"has a damaged {name}"


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_files(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return True


def keeps_from_reading() -> DamagedFolder | None:
    """Return the first folder with an ``entry_points.txt`` that is not UTF-8, or None.

    Python raises an error there when any program asks for entry points, as torch does when it is
    imported.
    """
    for name, folders in _by_name():
        for folder in folders:
            content = _read(folder / _ENTRY_POINTS)
            if content and not _is_text(content):
                return DamagedFolder(folder, name, f"has a damaged {_ENTRY_POINTS}")
    return None


def _without_entry_points(folder: Path) -> tuple[str | None, bool]:
    """Say how the file that names plugins is damaged, and whether it may have named one."""
    content = _read(folder / _ENTRY_POINTS)
    if not content:
        recorded = re.search(
            rb"^[^,\n]*/entry_points\.txt,[^,\n]*,(\d*)\s*$",
            _read(folder / "RECORD") or b"",
            re.MULTILINE,
        )
        if recorded is None or recorded[1] == b"0":
            return None, False
        lost = "has lost its" if content is None else "has an empty"
        return f"{lost} {_ENTRY_POINTS}", False
    if _are_entry_points(content):
        return None, False
    return f"has a damaged {_ENTRY_POINTS}", ENTRY_POINT_GROUP.encode() in content


def _are_entry_points(content: bytes) -> bool:
    """Whether a file is what the packaging specification says: sections of ``name = object``.

    Python's own reader passes over what it does not understand.
    """
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    try:
        parser.read_string(content.decode())
    except (UnicodeDecodeError, configparser.Error):
        return False
    return True


def _hidden_by(damaged: Path, folders: list[Path]) -> Path | None:
    """Return the first complete folder, if it names a plugin and a damaged one hides it.

    Which of two folders in one place Python takes first is up to the file system.
    """
    complete = next((folder for folder in folders if _damage(folder)[0] is None), None)
    if complete is None or not _plugins_of(complete):
        return None
    is_first = folders.index(damaged) < folders.index(complete)
    return complete if is_first or damaged.parent == complete.parent else None


def _plugins_of(folder: Path) -> list[metadata.EntryPoint]:
    try:
        return list(metadata.Distribution.at(folder).entry_points.select(group=ENTRY_POINT_GROUP))
    except Exception:
        # As above: it is damaged, which is said where it matters.
        return []


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
