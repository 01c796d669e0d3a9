"""Record what headstrip found out about weights files: one small file per weights file.

If a record is damaged or cannot be written, headstrip hashes the weights file again.
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
"""Origins of files that users do not edit. Such a file must keep the sha256 of its first use."""

_LARGEST = 1 << 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Record:
    """What headstrip found out about a file, with the file's size and times at that moment.

    Attributes:
        path: The path of the file, with links resolved.
        size: The size in bytes.
        mtime_ns: The time of the last change, in nanoseconds.
        inode: The inode of the file.
        device: The number of the device.
        sha256: The sha256 in hexadecimal.
        origin: The origin: ``download``, ``hub``, ``package``, ``optimized`` or ``own``.
        when: When headstrip hashed the file, in UTC and ISO 8601.
        facts: Other facts about these bytes.
        url: The address that headstrip downloaded the file from, or "".
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
        """Return whether a file has the same size, time, inode and device as in the record."""
        then = (self.size, self.mtime_ns, self.inode, self.device)
        return then == (stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


def cache_home() -> Path:
    """Return headstrip's cache folder: ``$HEADSTRIP_CACHE``, or one in the user's cache folder."""
    own = os.environ.get("HEADSTRIP_CACHE")
    # Path.expanduser raises an error for an unknown user. This function does not.
    if own:
        return Path(os.path.expanduser(own))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "headstrip"


def path_of_copy(sha256: str) -> Path:
    """Return the path of the optimized copy of a weights file. The copy may not exist.

    Args:
        sha256: The sha256 of the weights file in hexadecimal.
    """
    return cache_home() / "optimized" / f"{sha256}.safetensors"


def find_copy(sha256: str) -> Path | None:
    """Return the optimized copy of the file with a sha256, or None if there is no copy."""
    path = path_of_copy(sha256)
    return path if _SHA256.fullmatch(sha256) and path.is_file() else None


def copy_of(path: Path) -> Path | None:
    """Return the optimized copy of a file, or None if there is no copy or no record."""
    record = recorded(path)
    return find_copy(record.sha256) if record is not None else None


def is_copy(path: Path) -> bool:
    """Return whether a path is that of an optimized copy."""
    return bool(_SHA256.fullmatch(path.stem)) and path == path_of_copy(path.stem)


def recorded(path: Path) -> Record | None:
    """Return the record of a file, even if the file has changed since, or None."""
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
    """Record the sha256 of a file, and replace its earlier record.

    The new record keeps the facts and the address if the sha256 is the same. It also keeps the
    origin of a file in a shared cache if the user now names the file by its path.

    Args:
        path: The file.
        stat: The result of `os.fstat` before hashing.
        sha256: The complete sha256.
        origin: The origin of the file, such as ``download``.
        url: The address that headstrip downloaded the file from just now, or None.
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
    """Add facts about a file's bytes to its record, if it has a record and did not change since."""
    record = recorded(path)
    if record is not None and record.describes(stat) and facts.items() - record.facts.items():
        _write(replace(record, facts={**record.facts, **facts}))


def forget(path: Path) -> None:
    """Remove the record of a file."""
    with suppress(OSError):
        os.unlink(_record_of(os.path.realpath(path)))


def _record_of(real: str) -> Path:
    return cache_home() / "files" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()}.json"


def _write(record: Record) -> None:
    target = _record_of(record.path)
    # The name may not be encodable, or the cache may be read-only. The next load hashes again.
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
