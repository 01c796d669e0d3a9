"""The expected and the recorded sha256 of a weights file.

headstrip hashes a file once, and records the sha256 with the size, the time and the inode of the
file. As long as these are the same, it uses the recorded sha256 and does not read the file again.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlparse

from headstrip.errors import WeightsError
from headstrip.weights.addresses import checkpoints, file_name
from headstrip.weights.folders import hash_of_installed, lies_in_a_cache
from headstrip.weights.records import SHARED, recorded

_CHUNK = 1 << 20
FIRST_USE = "the record of the first use"
"""The source of an expected sha256 that headstrip recorded itself."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^-]*")
# A file system may give the same time to two writes within this many seconds.
_TICK = 0.02
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The identity of an open file.

    Attributes:
        sha256: The sha256 of the complete file in hexadecimal.
        was_hashed: True if headstrip read every byte, False if the sha256 is from the record.
        stat: ``os.fstat`` before hashing.
        facts: The recorded facts about these bytes.
    """

    sha256: str
    was_hashed: bool
    stat: os.stat_result
    facts: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expected sha256 of a file.

    Attributes:
        sha256: The sha256 in hexadecimal, or its first digits, or "" if any is right.
        source: The source of the sha256, such as "the catalog", or "".
    """

    sha256: str = ""
    source: str = ""


def hash_in_name(name: str) -> str:
    """Return the first digits of the sha256 in a file name, or "". Torch hub has this convention.

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
    """Return the sha256 of an open file from its start, in hexadecimal."""
    file.seek(0)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    readable = cast(BufferedIOBase, file)
    while count := readable.readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


def identify(path: Path, file: BinaryIO, *, always: bool = False, name: str = "") -> FileIdentity:
    """Return the sha256 of an open file: the recorded one if the file is unchanged, else a new one.

    Args:
        path: The path of the file.
        file: The open file.
        always: Whether to hash the file even if it is unchanged.
        name: The name of the weights that the user passed, for messages. Empty for a path.

    Raises:
        WeightsError: The bytes changed, but the size and the times did not.
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
            f"The bytes of the file {path} changed, but its size and times did not: the file has "
            f"the sha256 {found}, but its record has {known.sha256}. The disk is failing, or a "
            "program reset the times. "
            f"{_remedy(path, name, known.origin)}"
        )
    facts = record.facts if record is not None and record.sha256 == found else {}
    return FileIdentity(found, True, stat, facts)


def expectation(path: Path, entry_sha256: str = "", *, url: str | None) -> Expectation:
    """Return the expected sha256 of a file and its source.

    The source is the first of these that has a sha256: the catalog; the name of a downloaded file;
    the file name in the Hugging Face hub's cache; the ``RECORD`` of the package that contains the
    file; for a file in a cache that users do not edit, the record of its first use.

    Args:
        path: The file.
        entry_sha256: The sha256 in the catalog, or its first digits, or "".
        url: The address that the file was downloaded from, or None.
    """
    if entry_sha256:
        return Expectation(entry_sha256.lower(), "the catalog")
    if named := hash_in_name(_name_of(url)) if url else "":
        return Expectation(named, "the file name")
    if blob := hub_blob(path):
        return Expectation(blob.name, "the hub")
    if listed := hash_of_installed(path):
        return Expectation(listed, "the package's RECORD")
    record = recorded(path)
    if record is not None and record.origin in SHARED:
        return Expectation(record.sha256, FIRST_USE)
    return Expectation()


def compare(path: Path, found: str, expected: Expectation, name: str = "") -> None:
    """Compare the sha256 of a file with the expected one.

    Args:
        path: The file, for messages.
        found: The sha256 of the file.
        expected: The expected sha256 and its source.
        name: The name that the user passed, such as ``resnet50.IMAGENET1K_V1``. Empty for a path.

    Raises:
        WeightsError: The two differ.
    """
    if not found.startswith(expected.sha256):
        record = recorded(path)
        raise WeightsError(
            f"The file {path} has the sha256 {found}, but {expected.source} has {expected.sha256}. "
            f"{_remedy(path, name, record.origin if record else '')}"
        )


def cached_path(url: str, sha256: str = "") -> Path:
    """Return the path that a URL's file has in torch hub's cache, or would have.

    Torch hub names a file by the last part of its URL, so files of two URLs can have one name. If
    headstrip downloaded the file of that name from another URL, and no sha256 decides which file is
    right, the name begins with eight digits for the URL.

    Args:
        url: The URL.
        sha256: The sha256 in the catalog; empty if it has none.

    Raises:
        ValueError: The URL has no usable file name.
    """
    path = checkpoints() / file_name(url)
    if sha256 or hash_in_name(path.name):
        return path
    own = path.with_name(f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{path.name}")
    record = recorded(path) if path.is_file() else None
    is_other = record is not None and record.url not in ("", url)
    return own if is_other or own.is_file() else path


def hub_blob(path: Path) -> Path | None:
    """Return the file in the hub's cache that ``path`` is or links to, if its name is a sha256.

    The hub's cache names a small file by git's hash, which has 40 digits. The file may be a link
    itself, to a file with any name.
    """
    for step in _links(path):
        if step.parent.name == "blobs" and _SHA256.fullmatch(step.name):
            return step
    return None


def origin_of(path: Path) -> str:
    """Return the origin of a file according to its folder: ``hub``, ``download`` or ``own``."""
    if hub_blob(path) is not None:
        return "hub"
    return "download" if path.parent == checkpoints() else "own"


def _settled(file: BinaryIO, stat: os.stat_result) -> os.stat_result:
    """If a file was just written, wait until a later change would get another time."""
    if 0 <= time.time() - stat.st_mtime < _TICK:
        time.sleep(_TICK)
        return os.fstat(file.fileno())
    return stat


def _is_date(digits: str) -> bool:
    """Return whether digits are a date from 1990 to 2099, such as 20211108."""
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return len(digits) == 8 and 1990 <= day.year < 2100


def _name_of(url: str) -> str:
    return unquote(urlparse(url).path.rpartition("/")[2])


def _links(path: Path) -> Iterator[Path]:
    """Yield a path, the path that it links to, the path that this one links to, and so on."""
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
        return "It is an optimized copy: remove it, and run `headstrip weights optimize` again."
    if not (origin in SHARED or hub_blob(path) or lies_in_a_cache(path)):
        return "It is your own file: copy it again from its source, or save it again."
    repair = f"Run `headstrip weights repair {name or 'NAME'}`, which downloads the file again"
    return f"{repair}." if name else f"{repair}; `headstrip weights list` prints the names."
