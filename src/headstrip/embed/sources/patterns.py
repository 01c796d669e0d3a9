"""Patterns of paths: braces that count up, and wildcards that are met while folders are listed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from headstrip.errors import HeadstripError

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_WILD = re.compile(r"[*?\[]")
_MOST_NAMES = 100_000
_MOST_PATTERNS = 1_000

State = tuple[int, int]


def is_wild(text: str) -> bool:
    """Whether a text has a wildcard: ``*``, ``?`` or ``[``."""
    return _WILD.search(text) is not None


def expand_braces(text: str) -> list[str]:
    """Write out ``{a,b}`` and ``{000..012}``, as WebDataset and shells do.

    Raises:
        HeadstripError: It stands for more than 100,000 names.

    Example:
        >>> expand_braces("{train,val}-{08..10}.tar")[:3]
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    for match in _GROUP.finditer(text):
        count = _count(match[1])
        if not count:
            continue
        tails = expand_braces(text[match.end() :])
        if count * len(tails) > _MOST_NAMES:
            raise HeadstripError(
                f"{text!r} stands for more than {_MOST_NAMES} names. Name a folder instead."
            )
        head = text[: match.start()]
        return [head + choice + tail for choice in _choices(match[1]) for tail in tails]
    return [text]


def _count(group: str) -> int:
    if bounds := _RANGE.fullmatch(group):
        return abs(int(bounds[2]) - int(bounds[1])) + 1
    return group.count(",") + 1 if "," in group else 0


def _choices(group: str) -> list[str]:
    bounds = _RANGE.fullmatch(group)
    if bounds is None:
        return group.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    step = 1 if first <= last else -1
    padded = any(bound[0] == "0" and len(bound) > 1 for bound in bounds.groups())
    width = max(map(len, bounds.groups())) if padded else 0
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


@dataclass(frozen=True)
class Patterns:
    """Patterns under one folder, all met in one walk, so that no file is met twice.

    Attributes:
        root: The folder, absolute.
        parts: What the names of the folders in it and of the file have to be, for each pattern.
        hidden: Whether wildcards stand for names that start with a dot too.
    """

    root: str
    parts: tuple[tuple[str, ...], ...]
    hidden: bool = False

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Patterns:
        """Read patterns as a shell does; ``**`` stands for any number of folders.

        Raises:
            HeadstripError: There are more than 1,000.
        """
        split = [_split(text) for text in texts]
        if len(split) > _MOST_PATTERNS:
            raise HeadstripError(
                f"The braces make more than {_MOST_PATTERNS} patterns with wildcards. "
                "Use a wildcard in their place."
            )
        root = os.path.commonpath([folder for folder, _ in split])
        return cls(root, tuple(_below(root, folder) + parts for folder, parts in split))

    @classmethod
    def everything(cls, root: str) -> Patterns:
        """Return what every file of a folder, and of the folders in it, meets."""
        return cls(os.path.abspath(root), (("**",),), hidden=True)

    def start(self) -> frozenset[State]:
        """Return the state at the root."""
        return self._closed({(index, 0) for index in range(len(self.parts))})

    def enter(self, states: frozenset[State], name: str, *, linked: bool) -> frozenset[State]:
        """Return the state in a folder; without one, nothing in it can match.

        ``**`` enters no link, so no loop of links is walked.
        """
        reached = set()
        for index, at in states:
            if at + 1 < len(self.parts[index]) and self._meets(index, at, name):
                reached.add((index, at + 1))
            if self.parts[index][at] == "**" and not linked and self._is_open(name):
                reached.add((index, at))
        return self._closed(reached)

    def match(self, states: frozenset[State], name: str) -> bool:
        """Whether a file of a folder in this state is meant."""
        return any(
            at + 1 == len(self.parts[index])
            and (self._meets(index, at, name) or (self._is_any(index, at) and self._is_open(name)))
            for index, at in states
        )

    def _meets(self, index: int, at: int, name: str) -> bool:
        part = self.parts[index][at]
        if part == "**" or not (part.startswith(".") or self._is_open(name)):
            return False
        return fnmatchcase(name, part) if is_wild(part) else name == part

    def _is_any(self, index: int, at: int) -> bool:
        return self.parts[index][at] == "**"

    def _is_open(self, name: str) -> bool:
        return self.hidden or not name.startswith(".")

    def _closed(self, states: Iterable[State]) -> frozenset[State]:
        """Add what follows each ``**``, which may stand for no folder at all."""
        found = set()
        for index, at in states:
            found.add((index, at))
            while self._is_any(index, at) and at + 1 < len(self.parts[index]):
                at += 1
                found.add((index, at))
        return frozenset(found)


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder before the first wildcard, and the parts after it."""
    text = text.replace(os.altsep, os.sep) if os.altsep else text
    parts = text.split(os.sep)
    first = next((i for i, part in enumerate(parts) if is_wild(part)), len(parts) - 1)
    folder = os.sep.join(parts[:first]) + (os.sep if first else "")
    return os.path.abspath(folder or "."), tuple(p for p in parts[first:] if p not in {"", "."})


def _below(root: str, folder: str) -> tuple[str, ...]:
    inner = os.path.relpath(folder, root)
    return () if inner == os.curdir else tuple(inner.split(os.sep))
