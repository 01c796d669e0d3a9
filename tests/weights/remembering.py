"""A function for child processes: it hashes a weights file and records the hash."""

from __future__ import annotations

from pathlib import Path

from headstrip.weights.records import add_facts, remember
from headstrip.weights.trust import identify


def hash_and_record(path: Path, *, always: bool = False) -> str:
    """Return the file's sha256, and record the file as a download."""
    with open(path, "rb") as file:
        seen = identify(path, file, always=always)
    remember(path, seen.stat, seen.sha256, origin="download")
    add_facts(path, seen.stat, filled=True)
    return seen.sha256
