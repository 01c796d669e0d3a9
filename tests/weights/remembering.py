"""What a process of its own does with a weights file: says which bytes it has, and records it."""

from __future__ import annotations

from pathlib import Path

from headstrip.weights.records import add_facts, remember
from headstrip.weights.trust import identify


def see(path: Path, *, always: bool = False) -> str:
    """Return the file's sha256, after recording it as a download's."""
    with open(path, "rb") as file:
        seen = identify(path, file, always=always)
    remember(path, seen.stat, seen.sha256, origin="download")
    add_facts(path, seen.stat, filled=True)
    return seen.sha256
