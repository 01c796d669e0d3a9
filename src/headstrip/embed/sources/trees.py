"""The files under a folder, one by one, without a list of them in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from headstrip.embed.files import escape, is_image, refuse_folder
from headstrip.embed.sources.access import Access
from headstrip.embed.sources.items import Item, shown_place, stamp_in
from headstrip.embed.sources.left_out import LINKS, Note, unnoted
from headstrip.embed.sources.patterns import Patterns, State
from headstrip.errors import HeadstripError

COMPRESSED = (".tar.bz2", ".tar.gz", ".tar.xz", ".tar.zst", ".tbz2", ".tgz", ".txz")


class Tree(Protocol):
    """Files below a folder or a url.

    Attributes:
        root: That folder, absolute, or that url.
        where: What the tree is called in a table.
        suffix: The only suffix that its files have, in lower case, or empty.
        is_file: Whether it is one file that was named.
    """

    @property
    def root(self) -> str: ...  # noqa: D102
    @property
    def where(self) -> str: ...  # noqa: D102
    @property
    def suffix(self) -> str: ...  # noqa: D102
    @property
    def is_file(self) -> bool: ...  # noqa: D102

    @property
    def access(self) -> Access:
        """Which urls may be read for it."""
        ...

    def files(self, note: Note = unnoted) -> Iterator[Item]:
        """Yield the files that may be images or hold some, named relative to the root.

        Args:
            note: Called with the name of each other file, and of each link to a folder that is not
                followed.
        """
        ...


@dataclass(frozen=True)
class FolderTree:
    """Files of folders on this machine that meet patterns; see ``Tree``."""

    patterns: Patterns
    where: str
    suffix: str = ""
    is_file = False
    access = Access()

    @property
    def root(self) -> str:
        """The folder that all are below."""
        return self.patterns.root

    def files(self, note: Note = unnoted) -> Iterator[Item]:
        """Walk the folders; see ``Tree``."""
        pending = [("", self.patterns.start())]
        while pending:
            inner, states = pending.pop()
            folder = os.path.join(self.root, inner[:-1]) if inner else self.root
            # What headstrip keeps there while it runs is no file of the source.
            noted = unnoted if ".parts/" in inner else note
            with _listed(folder) as entries:
                for entry in entries:
                    name = inner + entry.name
                    if _is_folder(entry):
                        entered = self._enter(states, entry, note)
                        if entered:
                            pending.append((name + "/", entered))
                    elif not self.patterns.match(states, entry.name):
                        continue
                    elif self.suffix or kind_of(entry.name):
                        yield Item(escape(os.fsencode(name)), *_stamp(entry))
                    else:
                        noted(entry.name)

    def _enter(
        self, states: frozenset[State], entry: os.DirEntry[str], note: Note
    ) -> frozenset[State]:
        reached = self.patterns.enter(states, entry.name, linked=False)
        if not reached or not _is_linked(entry):
            return reached
        followed = self.patterns.enter(states, entry.name, linked=True)
        if not followed:
            note(entry.name, LINKS)
        return followed


@dataclass(frozen=True)
class NamedTree:
    """Files on this machine that are each named; see ``Tree``.

    Attributes:
        root: The folder that all are below.
        paths: Their absolute paths.
        where: What they are called together.
        suffix: The suffix that they have.
    """

    root: str
    paths: tuple[str, ...]
    where: str
    suffix: str
    access = Access()

    @property
    def is_file(self) -> bool:
        """Whether there is one."""
        return len(self.paths) == 1

    @classmethod
    def of(cls, texts: Iterable[str], where: str) -> NamedTree:
        """Take files that have to be there.

        Raises:
            HeadstripError: One is not.
        """
        paths = tuple(os.path.abspath(text) for text in dict.fromkeys(texts))
        for path in paths:
            if not os.path.isfile(path):
                raise HeadstripError(f"There is no file {path!r}. Check the path.")
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        return cls(root, paths, where, suffix_of(paths[0]) or ".")

    def files(self, note: Note = unnoted) -> Iterator[Item]:
        """Yield them in the order given; see ``Tree``."""
        for path in self.paths:
            name = os.path.relpath(path, self.root).replace(os.sep, "/")
            yield Item(escape(os.fsencode(name)), *stamp_of(path))


def whole_folder(root: str) -> FolderTree:
    """Return all that is in a folder, hidden files too."""
    patterns = Patterns.everything(root)
    return FolderTree(patterns, shown_place(patterns.root))


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, ``.jpg`` say; both of ``.tar.gz``."""
    lower = name.lower()
    double = next((suffix for suffix in COMPRESSED if lower.endswith(suffix)), None)
    return double or os.path.splitext(lower)[1]


def kind_of(name: str) -> str | None:
    """Return what a file is taken for by its suffix: ``image``, ``tar``, ``parquet`` or None."""
    if is_image(name):
        return "image"
    suffix = suffix_of(name)
    if suffix == ".tar" or suffix in COMPRESSED:
        return "tar"
    return "parquet" if suffix == ".parquet" else None


def stamp_of(path: str) -> tuple[int, int]:
    """Return a file's bytes and when it was written in ns, zeros where nothing can be known."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        # The row says what reading it says.
        return 0, 0
    return stamp_in(found)


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        found = entry.stat()
    except OSError:
        return 0, 0
    return stamp_in(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A loop of links is a file that cannot be read.
        return False


def _is_linked(entry: os.DirEntry[str]) -> bool:
    # A junction of Windows is no symbolic link, and leads anywhere as well.
    is_junction = getattr(entry, "is_junction", bool)
    return entry.is_symlink() or is_junction()


@contextmanager
def _listed(folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """List a folder as its entries come.

    Raises:
        HeadstripError: It cannot be listed.
    """
    try:
        entries = os.scandir(folder)
    except OSError as error:
        refuse_folder(error)
    with entries:
        yield _entries(entries, folder)


def _entries(entries: Iterator[os.DirEntry[str]], folder: str) -> Iterator[os.DirEntry[str]]:
    while True:
        try:
            entry = next(entries)
        except StopIteration:
            return
        except OSError as error:
            error.filename = folder
            refuse_folder(error)
        yield entry
