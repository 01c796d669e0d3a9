"""The files of a folder, a pattern, a list of names or a url, one by one."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from headstrip.embed.sources.access import HTTP, Access
from headstrip.embed.sources.items import Item, reason_of, size_and_time_of
from headstrip.embed.sources.left_out import Note, ignore
from headstrip.embed.sources.names import (
    display_name,
    escape,
    joined,
    kind_of,
    stored_path,
    suffix_of,
)
from headstrip.embed.sources.patterns import EVERYTHING, Patterns, is_wild
from headstrip.embed.sources.urls import filesystem, size_and_time_in
from headstrip.errors import HeadstripError

_LOCAL = Access()
_NO_SUFFIX = "."


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
    """Files of folders on this machine that match patterns; by default all, hidden ones too."""

    patterns: Patterns = EVERYTHING

    def files(self, note: Note = ignore) -> Iterator[Item]:
        """Walk the folders, one entry after the other."""
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
                    yield Item(stored_path(name), *size_and_time_of(entry))
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
            suffix=suffix_of(paths[0]) or _NO_SUFFIX,
            is_file=len(paths) == 1,
            paths=paths,
        )

    def files(self, note: Note = ignore) -> Iterator[Item]:
        """List the files in the order in which they were named."""
        for path in self.paths:
            name = os.path.relpath(path, self.root).replace(os.sep, "/")
            yield Item(stored_path(name), *size_and_time_of(path))


@dataclass(frozen=True, kw_only=True)
class UrlTree(Tree):
    """Files below a url, or that match a pattern of one.

    fsspec lists a folder completely, so this takes memory per file, unlike a folder here.
    """

    url: str

    @classmethod
    def of(cls, url: str, access: Access) -> UrlTree:
        """Return the files of a url that stands for a folder, one file, or a pattern.

        Raises:
            HeadstripError: The url may not be read, or fsspec or its driver is not installed.
        """
        files, stripped = filesystem(url, access)
        scheme, _, path = url.partition("://")
        where, parts = display_name(url), path.split("/")
        wild = [index for index, part in enumerate(parts) if _is_wild(scheme, part)]
        if not wild and _is_url_of_folder(url, files, stripped):
            return cls(url=url, root=url, where=where, access=access)
        first = wild[0] if wild else len(parts) - 1
        root = f"{scheme}://{'/'.join(parts[:first])}{'/' if first else ''}"
        suffix = suffix_of(parts[-1])
        if not wild:
            suffix = suffix or _NO_SUFFIX
        elif is_wild(suffix):
            suffix = ""
        return cls(url=url, root=root, where=where, suffix=suffix, is_file=not wild, access=access)

    def files(self, note: Note = ignore) -> Iterator[Item]:
        """List the files."""
        _, root = filesystem(self.root, self.access)
        start = len(root.rstrip("/"))
        for path, info in self._found().items():
            name = path[start:].lstrip("/")
            # Anything else, such as a link, is a row that says why it cannot be read.
            if info.get("type", "file") == "directory":
                continue
            if self.suffix or kind_of(name):
                stored = escape(name.encode("utf-8", "surrogateescape"))
                yield Item(stored, *size_and_time_in(info))
            else:
                note(name)

    def _found(self) -> dict[str, Any]:
        files, path = filesystem(self.url, self.access)
        try:
            if self.is_file:
                found: dict[str, Any] = {path: files.info(path)}
            elif self.root == self.url:
                found = files.find(path, detail=True)
            else:
                found = files.glob(path, detail=True)
        except Exception as error:
            # Drivers raise errors of many classes.
            raise _unlisted(self.where, reason_of(error)) from error
        if not found:
            raise _unlisted(self.where, "it does not exist or is empty")
        return found


@dataclass(frozen=True)
class TreeSource(ABC):
    """What the sources have in common whose files are below a folder or a url."""

    tree: Tree
    file_kind = "image"

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as plain JSON values."""
        return {"kind": self.file_kind, "where": self.tree.where}

    @abstractmethod
    def items(self, note: Note = ignore) -> Iterator[Item]:
        """List the images, and call ``note`` with each file left out.

        Raises:
            HeadstripError: A folder or file cannot be read, or there are files of several kinds.
        """

    def files(self, note: Note) -> Iterator[Item]:
        """List the files of the source's kind, and refuse files of another kind that has images.

        Where the user named a suffix, all files that have it count as of that kind.
        """
        for item in self.tree.files(note):
            kind = self.file_kind if self.tree.suffix else kind_of(item.path)
            if kind == self.file_kind:
                yield item
            elif kind in {"image", "tar"} or (kind == "parquet" and self._has_images(item)):
                raise HeadstripError(
                    f"{self.tree.where!r} mixes single images and files that hold many, or has "
                    f"files of several kinds ({item.path!r} is one of them). Choose one kind with "
                    "a pattern that ends in its suffix, such as '**/*.jpg' or '**/*.tar'."
                )
            else:
                note(item.path)

    def _has_images(self, item: Item) -> bool:
        from headstrip.embed.sources.tables import has_images

        return has_images(joined(self.tree.root, item.path), self.tree.access)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        remedy = "Change its permissions, or move it out of the source."
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            remedy = "Check the path."
        raise HeadstripError(
            f"The folder {folder!r} cannot be listed ({error.strerror}). {remedy}"
        ) from error


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


def _is_wild(scheme: str, part: str) -> bool:
    """Whether a part of a url is a pattern. On the web a question mark starts a query."""
    return "*" in part if scheme.lower() in HTTP else is_wild(part)


def _is_url_of_folder(url: str, files: Any, path: str) -> bool:
    if url.endswith("/"):
        return True
    if kind_of(url) is not None:
        return False
    try:
        return not files.isfile(path)
    except Exception as error:
        # Drivers raise errors of many classes.
        raise _unlisted(display_name(url), reason_of(error)) from error


def _unlisted(where: str, why: str) -> HeadstripError:
    return HeadstripError(
        f"{where!r} cannot be listed: {why}. Check the address and your permissions."
    )
