"""One small file for each weights file: what was found out about its bytes, and when.

A record that is damaged, or cannot be written, costs another hash and is never an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from headstrip.system.atomic import write_atomically

SHARED = frozenset({"download", "hub", "optimized"})
"""Origins of files that users do not edit: bytes other than at the first use are an error."""

_LARGEST = 1 << 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Record:
    """What was found out about a file, and what the file was like then.

    Attributes:
        path: The file, links followed.
        size: Bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        inode: Its number on the device.
        device: Number of the device.
        sha256: Hexadecimal sha256 of the bytes.
        origin: Where it is from: ``download``, ``hub``, ``package`` or ``own``, for example.
        when: Time of the hash, in UTC as ISO 8601 writes it.
        facts: What else was found out about these bytes.
        url: The address that headstrip downloaded it from; empty for any other file.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    device: int
    sha256: str
    origin: str
    when: str
    facts: dict[str, bool] = field(default_factory=dict)
    url: str = ""

    def describes(self, stat: os.stat_result) -> bool:
        """Whether a file is unchanged since the record was written."""
        then = (self.size, self.mtime_ns, self.inode, self.device)
        return then == (stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


def cache_home() -> Path:
    """Return the folder of what headstrip keeps: ``$HEADSTRIP_CACHE``, else in the user's cache."""
    own = os.environ.get("HEADSTRIP_CACHE")
    # Unlike Path.expanduser, this leaves the name of an unknown user unchanged.
    if own:
        return Path(os.path.expanduser(own))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "headstrip"


def path_of_copy(sha256: str) -> Path:
    """Return where the converted file of a weights file is or would be.

    Args:
        sha256: Hexadecimal sha256 of the weights file.
    """
    return cache_home() / "optimized" / f"{sha256}.safetensors"


def find_copy(sha256: str) -> Path | None:
    """Return the converted file of a weights file, None if it does not exist."""
    path = path_of_copy(sha256)
    return path if _SHA256.fullmatch(sha256) and path.is_file() else None


def copy_of(path: Path) -> Path | None:
    """Return the converted file of a weights file by its record, None if it does not exist."""
    record = recorded(path)
    return find_copy(record.sha256) if record is not None else None


def is_copy(path: Path) -> bool:
    """Whether a file is one that `optimize` wrote."""
    return bool(_SHA256.fullmatch(path.stem)) and path == path_of_copy(path.stem)


def recorded(path: Path) -> Record | None:
    """Return what was recorded of a file, even if it has changed since."""
    real = os.path.realpath(path)
    try:
        with open(_record_of(real), "rb") as file:
            values = json.loads(file.read(_LARGEST))
        record = Record(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if record.path == real and _is_sound(record) else None


def remember(
    path: Path, stat: os.stat_result, sha256: str, *, origin: str, url: str | None = None
) -> None:
    """Record a file's sha256, in place of what was recorded.

    What is known of the same bytes stays known, and a file of a shared cache remains one when it
    is named by its path as well.

    Args:
        path: The file.
        stat: What it was like before it was hashed.
        sha256: Its whole sha256.
        origin: Where it is from, such as ``download``.
        url: The address that it was downloaded from just now.
    """
    before = recorded(path)
    same = before if before is not None and before.sha256 == sha256 else None
    if before is not None and before.origin in SHARED and origin == "own":
        origin = before.origin
    _write(
        Record(
            path=os.path.realpath(path),
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            inode=stat.st_ino,
            device=stat.st_dev,
            sha256=sha256,
            origin=origin,
            when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            facts=same.facts if same is not None else {},
            url=url or (same.url if same is not None else ""),
        )
    )


def add_facts(path: Path, stat: os.stat_result, **facts: bool) -> None:
    """Add to what is known of a file's bytes; nothing is, where no record describes it."""
    record = recorded(path)
    if record is not None and record.describes(stat) and facts.items() - record.facts.items():
        _write(replace(record, facts={**record.facts, **facts}))


def forget(path: Path) -> None:
    """Remove what was recorded of a file."""
    with suppress(OSError):
        os.unlink(_record_of(os.path.realpath(path)))


def _record_of(real: str) -> Path:
    return cache_home() / "files" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()}.json"


def _write(record: Record) -> None:
    target = _record_of(record.path)
    # A name that cannot be encoded, or a read-only cache: the next load hashes again.
    with suppress(OSError, ValueError):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, json.dumps(asdict(record), ensure_ascii=True).encode())


def _is_sound(record: Record) -> bool:
    numbers = (record.size, record.mtime_ns, record.inode, record.device)
    texts = (record.origin, record.when, record.url)
    return (
        all(type(number) is int for number in numbers)
        and all(isinstance(text, str) for text in (record.sha256, *texts))
        and _SHA256.fullmatch(record.sha256) is not None
        and isinstance(record.facts, dict)
        and all(isinstance(value, bool) for value in record.facts.values())
    )
