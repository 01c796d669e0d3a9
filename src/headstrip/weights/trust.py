"""What is known of a weights file's bytes: who says which they must be, and which they were.

A file is hashed once. Its sha256 is kept beside the size, time and inode that it had, and holds
for as long as those are the same, so that a check costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlparse

from headstrip.errors import WeightsError
from headstrip.weights.addresses import checkpoints
from headstrip.weights.folders import hash_of_installed, lies_in_a_cache
from headstrip.weights.records import SHARED, recorded

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^-]*")
# Two writes within this time may get the same time from a file system.
_TICK = 0.02
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The bytes of an open file.

    Attributes:
        sha256: Hexadecimal sha256 of the whole file.
        was_hashed: Whether every byte was read for it; else it is the one recorded.
        stat: What the file was like before that, for ``remember``.
        facts: What else is known of these bytes.
    """

    sha256: str
    was_hashed: bool
    stat: os.stat_result
    facts: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Expectation:
    """The bytes that a file must have.

    Attributes:
        sha256: Hexadecimal sha256, whole or its first digits; empty for any.
        source: The source of it, such as "the catalog"; empty without one.
    """

    sha256: str = ""
    source: str = ""


def hash_in_name(name: str) -> str:
    """Return the first digits of a file's sha256 by torch hub's convention, "" without any.

    Example:
        >>> hash_in_name("resnet50-0676ba61.pth")
        '0676ba61'
        >>> hash_in_name("swin_tiny-20211108.pth")
        ''
    """
    match = _IN_NAME.search(name)
    if match is None or match.end() != len(name) or _is_date(match[1]):
        return ""
    return match[1]


def hash_of(file: BinaryIO) -> str:
    """Return the hexadecimal sha256 of an open file from its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    readable = cast(BufferedIOBase, file)
    while count := readable.readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


def identify(path: Path, file: BinaryIO, *, always: bool = False, name: str = "") -> FileIdentity:
    """Say which bytes an open file has: those recorded, where it is unchanged since, else hashed.

    Args:
        path: Name of the file.
        file: The file, open.
        always: Whether to read every byte even so.
        name: What the user asked for, for messages; empty for a path.

    Raises:
        WeightsError: It was read, and has other bytes than it had with the same times and size.
    """
    stat = os.fstat(file.fileno())
    record = recorded(path)
    known = record if record is not None and record.describes(stat) else None
    if known is not None and not always:
        return FileIdentity(known.sha256, False, stat, known.facts)
    stat = _settled(file, stat)
    found = hash_of(file)
    if known is not None and known.describes(stat) and known.sha256 != found:
        raise WeightsError(
            f"The contents of the file {path} changed, but its size and times did not: its sha256 "
            f"is {found}, and {known.sha256} was recorded. "
            "The disk is failing, or somebody reset the times. "
            f"{_remedy(path, name, known.origin)}"
        )
    facts = record.facts if record is not None and record.sha256 == found else {}
    return FileIdentity(found, True, stat, facts)


def expectation(path: Path, entry_sha256: str = "", *, url: str | None) -> Expectation:
    """Say which bytes a file must have, and who says so.

    That is the catalog, else the hash in the name of what was downloaded, else the name that the
    Hugging Face hub's cache stores it under, else the record of the package that brought it, else,
    in a cache that users do not edit, its first use.

    Args:
        path: The file.
        entry_sha256: What the catalog says, whole or its first digits.
        url: Where the file is from, None for a file that was not downloaded from a URL.
    """
    if entry_sha256:
        return Expectation(entry_sha256.lower(), "the catalog")
    if named := hash_in_name(_name_of(url)) if url else "":
        return Expectation(named, "its name")
    if blob := hub_blob(path):
        return Expectation(blob.name, "the hub")
    if listed := hash_of_installed(path):
        return Expectation(listed, "its package")
    record = recorded(path)
    if record is not None and record.origin in SHARED:
        return Expectation(record.sha256, "its first use")
    return Expectation()


def compare(path: Path, found: str, expected: Expectation, name: str = "") -> None:
    """Compare a file's sha256 with what it must be.

    Args:
        path: The file.
        found: Its sha256.
        expected: What it must be.
        name: What the user asked for, such as ``resnet50.IMAGENET1K_V1``; empty for a path.

    Raises:
        WeightsError: It is another.
    """
    if not found.startswith(expected.sha256):
        record = recorded(path)
        raise WeightsError(
            f"The file {path} is not the one it should be: its sha256 is {found}, and "
            f"{expected.sha256} was expected, as {expected.source} says. "
            f"{_remedy(path, name, record.origin if record else '')}"
        )


def check_address(path: Path, locations: Sequence[str], name: str = "") -> None:
    """Refuse a file that headstrip downloaded from an address that is not one of ``locations``.

    Torch hub's cache names files by the last part of their address, so files of two addresses can
    have one name. Where a hash of the file is known, it decides instead.

    Args:
        path: The file.
        locations: Where the weights may be from; any address is right if there are none.
        name: What the user asked for, such as ``resnet50.IMAGENET1K_V1``; empty for a path.

    Raises:
        WeightsError: It is from another address.
    """
    record = recorded(path)
    if record is not None and record.url and locations and record.url not in locations:
        raise WeightsError(
            f"The file {path} was downloaded from {record.url}, and the weights that you asked "
            f"for are at {locations[0]}, which has the same file name. To replace the file, run "
            f"`headstrip weights repair {name or 'NAME'}`."
        )


def hub_blob(path: Path) -> Path | None:
    """Return the file of the hub's cache that ``path`` is or links to, if named by its sha256.

    git's own hash, of small files, has 40 digits. A blob may be a link itself, to any name.
    """
    for step in _links(path):
        if step.parent.name == "blobs" and _SHA256.fullmatch(step.name):
            return step
    return None


def origin_of(path: Path) -> str:
    """Return where a file is from by its folder: ``hub``, ``download`` or ``own``."""
    if hub_blob(path) is not None:
        return "hub"
    return "download" if path.parent == checkpoints() else "own"


def _settled(file: BinaryIO, stat: os.stat_result) -> os.stat_result:
    """Wait until a later change of a file that was just written would show in its times."""
    if 0 <= time.time() - stat.st_mtime < _TICK:
        time.sleep(_TICK)
        return os.fstat(file.fileno())
    return stat


def _is_date(digits: str) -> bool:
    """Whether eight digits are a day of our time, such as 20211108."""
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return len(digits) == 8 and 1990 <= day.year < 2100


def _name_of(url: str) -> str:
    return unquote(urlparse(url).path.rpartition("/")[2])


def _links(path: Path) -> Iterator[Path]:
    """Yield a path and, one after the other, what it links to."""
    step = Path(os.path.abspath(path))
    for _ in range(_MOST_LINKS):
        yield step
        try:
            target = os.path.join(os.path.realpath(step.parent), os.readlink(step))
            step = Path(os.path.normpath(target))
        except OSError:
            return


def _remedy(path: Path, name: str, origin: str) -> str:
    if origin == "optimized":
        return "Remove it: it is a copy, and `headstrip weights optimize` makes another."
    if not (origin in SHARED or hub_blob(path) or lies_in_a_cache(path)):
        return "It is your own file: copy it again from where it came from, or save it again."
    return f"Run `headstrip weights repair {name or 'NAME'}`" + (
        "." if name else " with the name of these weights."
    )
