"""The files of a folder, a pattern or a list of names, one by one and never all in memory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headstrip.embed.files import escape, is_image, refuse_folder
from headstrip.embed.sources.access import Access
from headstrip.embed.sources.items import Item, display_name, size_and_time
from headstrip.embed.sources.left_out import Note, ignore
from headstrip.embed.sources.patterns import EVERYTHING, Patterns
from headstrip.errors import HeadstripError

COMPRESSED = (".tar.bz2", ".tar.gz", ".tar.xz", ".tar.zst", ".tbz2", ".tgz", ".txz")
_LOCAL = Access()


@dataclass(frozen=True, kw_only=True)
class Tree(ABC):
    """Files below a folder or a url. Subclasses list them.

    Attributes:
        root: That folder, absolute, or that url.
        where: What the tree is called in results.
        suffix: The one suffix that all its files have, in lower case, or empty.
        is_file: Whether the user named one file.
        access: Which urls may be read for it.
    """

    root: str
    where: str
    suffix: str = ""
    is_file: bool = False
    access: Access = _LOCAL

    @abstractmethod
    def files(self, note: Note = ignore) -> Iterator[Item]:
        """List the files that may be images or hold some, named relative to the root.

        Args:
            note: Called with the name of each other file, and of each link to a folder that is not
                followed.

        Raises:
            HeadstripError: They cannot be listed.
        """


@dataclass(frozen=True, kw_only=True)
class FolderTree(Tree):
    """Files of folders on this machine that match patterns."""

    patterns: Patterns = EVERYTHING

    @classmethod
    def of_folder(cls, folder: str) -> FolderTree:
        """Return all files of a folder, hidden ones too."""
        root = os.path.abspath(folder)
        return cls(root=root, where=display_name(root))

    def files(self, note: Note = ignore) -> Iterator[Item]:
        """Walk the folders."""
        pending = [("", self.patterns)]
        while pending:
            inner, patterns = pending.pop()
            # Files that headstrip keeps there while it runs are not files of the source.
            note_file = ignore if ".parts/" in inner else note
            for entry in _entries(os.path.join(self.root, inner[:-1]) if inner else self.root):
                name = inner + entry.name
                if _is_folder(entry):
                    is_link = _is_link(entry)
                    entered = patterns.enter(entry.name, linked=is_link)
                    if entered.rests:
                        pending.append((name + "/", entered))
                    elif is_link and patterns.enter(entry.name, linked=False).rests:
                        note(entry.name + "/")
                elif not patterns.match(entry.name):
                    continue
                elif self.suffix or kind_of(entry.name):
                    yield Item(escape(os.fsencode(name)), *size_and_time_of(entry))
                else:
                    note_file(entry.name)


@dataclass(frozen=True, kw_only=True)
class NamedTree(Tree):
    """Files on this machine that were named one by one, by their absolute paths."""

    paths: tuple[str, ...]

    @classmethod
    def of_names(cls, names: Iterable[str], where: str) -> NamedTree:
        """Return the files with these names.

        Raises:
            HeadstripError: One does not exist.
        """
        paths = tuple(os.path.abspath(name) for name in dict.fromkeys(names))
        for path in paths:
            if not os.path.isfile(path):
                raise HeadstripError(f"There is no file {path!r}. Check the path.")
        return cls(
            root=os.path.commonpath([os.path.dirname(path) for path in paths]),
            where=where,
            suffix=suffix_of(paths[0]) or ".",
            is_file=len(paths) == 1,
            paths=paths,
        )

    def files(self, note: Note = ignore) -> Iterator[Item]:
        """List the files in the order in which they were named."""
        for path in self.paths:
            name = os.path.relpath(path, self.root).replace(os.sep, "/")
            yield Item(escape(os.fsencode(name)), *size_and_time_of(path))


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, such as ``.jpg``; both of ``.tar.gz``."""
    lower = name.lower()
    double = next((suffix for suffix in COMPRESSED if lower.endswith(suffix)), None)
    return double or os.path.splitext(lower)[1]


def kind_of(name: str) -> str | None:
    """Return what a file is by its suffix: ``image``, ``tar``, ``parquet`` or None."""
    if is_image(name):
        return "image"
    suffix = suffix_of(name)
    if suffix == ".tar" or suffix in COMPRESSED:
        return "tar"
    return "parquet" if suffix == ".parquet" else None


def size_and_time_of(path: str | os.DirEntry[str]) -> tuple[int, int]:
    """Return what ``size_and_time`` does, zeros where the system does not say."""
    try:
        return size_and_time(path.stat() if isinstance(path, os.DirEntry) else os.stat(path))
    except (OSError, ValueError):
        # Reading it fails too, and its row has the reason.
        return 0, 0


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        error.filename = folder
        refuse_folder(error)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A loop of links counts as a file that cannot be read.
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    # A junction of Windows is not a symbolic link, and can lead anywhere too.
    is_junction = getattr(entry, "is_junction", bool)
    return entry.is_symlink() or is_junction()
