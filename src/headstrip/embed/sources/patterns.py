"""Patterns of paths: braces that are written out, and wildcards matched while folders are listed.

``glob`` follows links to folders, keeps whole folders in memory, and would list a file twice that
two patterns match.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from headstrip.errors import HeadstripError

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_WILD = re.compile(r"[*?\[]")
_MOST_NAMES = 100_000
_MOST_PATTERNS = 1_000

Parts = tuple[str, ...]


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
        count, choices = _choices(match[1])
        if not count:
            continue
        tails = expand_braces(text[match.end() :])
        if count * len(tails) > _MOST_NAMES:
            raise HeadstripError(
                f"{text!r} stands for more than {_MOST_NAMES} names. Pass a folder instead."
            )
        head = text[: match.start()]
        return [head + choice + tail for choice in choices for tail in tails]
    return [text]


def _choices(group: str) -> tuple[int, Iterable[str]]:
    """Return how many texts the inside of braces stands for, and these; 0 for plain text."""
    bounds = _RANGE.fullmatch(group)
    if bounds is None:
        choices = group.split(",")
        return len(choices) if len(choices) > 1 else 0, choices
    first, last = int(bounds[1]), int(bounds[2])
    step = 1 if first <= last else -1
    padded = any(bound[0] == "0" and len(bound) > 1 for bound in bounds.groups())
    width = max(map(len, bounds.groups())) if padded else 0
    numbers = range(first, last + step, step)
    return len(numbers), (f"{number:0{width}d}" for number in numbers)


@dataclass(frozen=True)
class Patterns:
    """Patterns under one folder. One walk matches them all, so no file is met twice.

    Attributes:
        rests: For each pattern the parts that are still to match, from this folder down.
        hidden: Whether wildcards also match names that start with a dot.
    """

    rests: frozenset[Parts]
    hidden: bool = False

    def enter(self, name: str, *, linked: bool) -> Patterns:
        """Return the patterns of a folder in this one. Where none is left, nothing can match.

        ``**`` never enters a link, so a loop of links ends.
        """
        entered: set[Parts] = set()
        for rest in self.rests:
            if rest[0] == "**":
                if not linked and self._is_open(name):
                    entered.update(_variants(rest))
            elif len(rest) > 1 and self._meets(rest[0], name):
                entered.update(_variants(rest[1:]))
        return Patterns(frozenset(entered), self.hidden)

    def match(self, name: str) -> bool:
        """Whether a file of this folder matches."""
        return any(len(rest) == 1 and self._meets(rest[0], name) for rest in self.rests)

    def _meets(self, part: str, name: str) -> bool:
        if not (part.startswith(".") or self._is_open(name)):
            return False
        return fnmatchcase(name, part) if is_wild(part) else name == part

    def _is_open(self, name: str) -> bool:
        return self.hidden or not name.startswith(".")


EVERYTHING = Patterns(frozenset({("**",)}), hidden=True)
"""Matches every file of a folder and of the folders in it."""


def parse_patterns(texts: Iterable[str]) -> tuple[str, Patterns]:
    """Read patterns as a shell does; ``**`` stands for any number of folders.

    Returns:
        The folder that all of them are under, absolute, and the patterns below it.

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
    rests = (_below(root, folder) + parts for folder, parts in split)
    return root, Patterns(frozenset(each for rest in rests for each in _variants(rest)))


def _variants(rest: Parts) -> Iterator[Parts]:
    """Yield a pattern, and what is left of it where ``**`` at its start stands for no folder."""
    yield rest
    while rest[0] == "**" and len(rest) > 1:
        rest = rest[1:]
        yield rest


def _split(text: str) -> tuple[str, Parts]:
    """Return the folder before the first wildcard, and the parts after it."""
    text = text.replace(os.altsep, os.sep) if os.altsep else text
    parts = text.split(os.sep)
    first = next((i for i, part in enumerate(parts) if is_wild(part)), len(parts) - 1)
    folder = os.sep.join(parts[:first]) + (os.sep if first else "")
    return os.path.abspath(folder or "."), tuple(p for p in parts[first:] if p not in {"", "."})


def _below(root: str, folder: str) -> Parts:
    inner = os.path.relpath(folder, root)
    return () if inner == os.curdir else tuple(inner.split(os.sep))
