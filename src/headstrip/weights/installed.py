"""The sha256 that an installed distribution states for each of its files."""

from __future__ import annotations

import base64
import binascii
import csv
import sys
from contextlib import suppress
from pathlib import Path


def hash_of_installed(path: Path) -> str:
    """Return the hexadecimal sha256 that the record of a distribution has for a file.

    It is empty for a file that no distribution lists, such as those of an editable installation.
    """
    folders = set(sys.path)
    for folder in path.parents:
        if str(folder) in folders and (found := _listed(folder, path)):
            return found
    return ""


def _listed(site: Path, path: Path) -> str:
    inside = path.relative_to(site).as_posix()
    for record in site.glob("*.dist-info/RECORD"):
        # A record that cannot be read says nothing.
        with suppress(OSError, UnicodeDecodeError, csv.Error):
            text = record.read_text(encoding="utf-8")
            if inside not in text:
                continue
            for name, digest, *_ in (row for row in csv.reader(text.splitlines()) if len(row) > 1):
                if name == inside:
                    return _hexadecimal(digest)
    return ""


def _hexadecimal(digest: str) -> str:
    """Read ``sha256=`` and urlsafe base64 without its padding."""
    kind, _, value = digest.partition("=")
    try:
        plain = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return ""
    return plain.hex() if kind == "sha256" and len(plain) == 32 else ""
