"""The folder beside a file of embeddings that holds what is done of it.

Only files that headstrip can show to be its own are ever removed: their names are known, they are
regular files in real folders, and beside shards there is the listing that they are of.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from headstrip.embed.listing import FILE as LISTING
from headstrip.embed.listing import is_listing
from headstrip.embed.output.damage import DamagedFile, damage_named
from headstrip.embed.output.paths import opened, rows_file
from headstrip.embed.output.table import metadata_of, parquet_bytes
from headstrip.embed.plan import Plan
from headstrip.errors import HeadstripError
from headstrip.system import bounded_json
from headstrip.system.atomic import sync_folder, write_atomically
from headstrip.system.interrupts import interrupts_held
from headstrip.system.os_errors import explain

_SHARD = "{:06d}.parquet"
_LOCK = "lock"
_STATE = "plan.json"
_NUMBER = b"headstrip.shard"
_GENERATION = re.compile(r"[0-9a-f]{16}")
_SHARD_NAME = re.compile(r"[0-9]{6,12}\.parquet")
_TEMPORARY = re.compile(r"\.(.{1,40})\.[0-9a-f]{8}", re.DOTALL)


def parts_folder(out: Path) -> Path:
    """Return the folder that holds what is done of a file."""
    return out.with_name(out.name + ".parts")


class Parts:
    """``OUT.parts``, held by this process: a plan, and a folder of shards for each listing.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, out: Path) -> None:
        """Name the folder; ``opened_parts`` makes it and holds it."""
        self.folder = parts_folder(out)
        self._written = {_STATE, out.name[:40], rows_file(out).name[:40]}

    @property
    def plan(self) -> Plan | None:
        """The plan that the shards were begun with, None before ``begin``."""
        return Plan.from_json(self._state().get("plan") or {})

    @property
    def anew(self) -> bool:
        """Whether the rows of a file that is there are not to be taken."""
        return bool(self._state().get("anew"))

    def begin(self, plan: Plan, *, anew: bool) -> None:
        """Write down the plan, on the disk before any shard is."""
        state = json.dumps({"plan": plan.to_json(), "anew": anew}, sort_keys=True, indent=1)
        write_atomically(self.folder / _STATE, state.encode(), durable=True)

    def clear(self) -> None:
        """Remove the shards, and the plan after them."""
        for folder in self.generations():
            _remove_generation(folder)
        if _is_regular(self.folder / _STATE):
            (self.folder / _STATE).unlink()

    def _state(self) -> dict[str, Any]:
        try:
            found = bounded_json.read(self.folder / _STATE, "The plan")
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def generations(self) -> list[Path]:
        """Return the folders of listings, the one written to last first."""
        found = [path for path in self.folder.iterdir() if _is_generation(path)]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def shards(self) -> list[Path]:
        """Return all shards, those of the folder that was written to last first."""
        return [path for folder in self.generations() for path in _shards_in(folder)]

    def has_shards(self) -> bool:
        """Whether anything is done."""
        return self.folder.is_dir() and bool(self.shards())

    def sweep(self) -> None:
        """Remove what was being written when a run was ended."""
        for path in self.folder.iterdir():
            if _is_temporary(path, self._written):
                path.unlink()
        for folder in self.generations():
            for path in folder.iterdir():
                if _is_temporary(path, None):
                    path.unlink()

    def remove(self) -> list[str]:
        """Remove all of it that is headstrip's, the shards before what says that there are any.

        Returns:
            Names of what is left in the folder because headstrip did not write it.

        Raises:
            OSError: Something of it cannot be removed.
        """
        self.clear()
        self.sweep()
        left = sorted(path.name for path in self.folder.iterdir() if path.name != _LOCK)
        with suppress(OSError):
            # Where the lock cannot be removed while it is held, releasing it does it.
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()
        sync_folder(self.folder.parent)
        return left

    def refuse_others(self) -> None:
        """Refuse a folder that has something else in it, or leads somewhere else.

        Raises:
            HeadstripError: It has.
        """
        if _is_link(self.folder):
            raise HeadstripError(
                f"{str(self.folder)!r} is a symbolic link, and headstrip removes files in the "
                "folder of that name. Remove the link, or name another file."
            )
        for path in self.folder.iterdir():
            if path.name == _STATE:
                is_ours = _is_regular(path) and {"plan", "anew"} <= self._state().keys()
            elif path.name.startswith("."):
                # A system's own, such as .DS_Store, is left where it is.
                continue
            elif path.name == _LOCK:
                is_ours = _is_regular(path)
            else:
                is_ours = _is_generation(path)
            if not is_ours:
                raise self._has_other(path)
            if _is_generation(path):
                self._refuse_in(path)

    def _refuse_in(self, folder: Path) -> None:
        for path in folder.iterdir():
            known = path.name == LISTING or _SHARD_NAME.fullmatch(path.name)
            if not path.name.startswith(".") and not (known and _is_regular(path)):
                raise self._has_other(path)
        if next(_shards_in(folder), None) is None:
            return
        if not is_listing(folder / LISTING):
            raise self._has_other(folder)

    def _has_other(self, path: Path) -> HeadstripError:
        name = path.relative_to(self.folder).as_posix()
        return HeadstripError(
            f"The folder {str(self.folder)!r} is for what is done so far, and has {name!r} in "
            "it, which headstrip did not write. Move that, or name another file."
        )


def _is_generation(path: Path) -> bool:
    """Whether a path is a folder of shards: a real one, no link to another."""
    return bool(_GENERATION.fullmatch(path.name)) and not _is_link(path) and path.is_dir()


def _is_link(path: Path) -> bool:
    # A junction of Windows is no symbolic link, and leads anywhere as well.
    is_junction = getattr(os.path, "isjunction", lambda _: False)
    return path.is_symlink() or bool(is_junction(path))


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _is_temporary(path: Path, written: set[str] | None) -> bool:
    """Whether a file is one that was being written: of one of these names, or of a generation."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or not _is_regular(path):
        return False
    if written is not None:
        return match[1] in written
    return match[1] == LISTING or bool(_SHARD_NAME.fullmatch(match[1]))


def _shards_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _SHARD_NAME.fullmatch(path.name) and _is_regular(path):
            yield path


def _remove_generation(folder: Path) -> None:
    """Remove what is ours in a folder of shards: the listing, which shows what it is, at the end.

    Shards without a listing are somebody else's, and stay.
    """
    if is_listing(folder / LISTING):
        for path in _shards_in(folder):
            path.unlink()
    for path in folder.iterdir():
        if _is_temporary(path, None):
            path.unlink()
    if next(_shards_in(folder), None) is None and _is_regular(folder / LISTING):
        (folder / LISTING).unlink()
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def opened_parts(out: Path) -> Iterator[Parts]:
    """Make the folder of parts, or find it, and let no other process write to it meanwhile.

    Nothing is left of it where no shard was done.

    Args:
        out: The file that the parts are for.

    Raises:
        HeadstripError: It cannot be made, has something else in it, or another process holds it.
    """
    parts = Parts(out)
    folder, lock = parts.folder, FileLock(parts.folder / _LOCK)
    try:
        try:
            with interrupts_held():
                _lock(parts, lock)
        except Timeout as error:
            # It is an OSError too.
            raise HeadstripError(
                f"Another process is writing {str(out)!r} now. Wait for it, or name another file."
            ) from error
        except OSError as error:
            raise HeadstripError(
                explain(error, f"The folder {str(folder)!r} cannot be made")
            ) from error
        yield parts
    finally:
        with suppress(OSError):
            if lock.is_locked and not parts.has_shards():
                parts.remove()
        lock.release()
        with suppress(OSError):
            # Made and not locked, there is nothing in it.
            folder.rmdir()


def _lock(parts: Parts, lock: FileLock) -> None:
    """Lock the folder that stands there, and no other that was removed since."""
    while True:
        if not _is_link(parts.folder):
            parts.folder.mkdir(exist_ok=True)
        parts.refuse_others()
        try:
            lock.acquire(timeout=0)
        except FileNotFoundError:
            continue
        if (parts.folder / _LOCK).exists():
            return
        lock.release()


class Shards:
    """The shards of one listing: files of rows, each whole or not there.

    Attributes:
        folder: Where they are.
        schema: What each of them has; its metadata tell one run's from another's.
        rows: Rows of a shard; the last one has what is left.
        total: Rows of all.
    """

    def __init__(self, folder: Path, schema: pa.Schema, rows: int, total: int) -> None:
        """Name the folder; it is there."""
        self.folder, self.schema, self.rows, self.total = folder, schema, rows, total

    def __len__(self) -> int:
        """Return the number of shards."""
        return -(-self.total // self.rows)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the first row of a shard, and the one after its last."""
        return number * self.rows, min(self.total, (number + 1) * self.rows)

    def path(self, number: int) -> Path:
        """Return where a shard is, once it is done."""
        return self.folder / _SHARD.format(number)

    def is_done(self, number: int) -> bool:
        """Whether a shard's file says itself that it is whole and this run's.

        Raises:
            OSError: It is there and cannot be read now.
        """
        start, stop = self.bounds(number)
        path = self.path(number)
        try:
            with damage_named(path), opened(path) as source, pq.ParquetFile(source) as file:
                is_same = file.schema_arrow.equals(self._schema_of(number), check_metadata=True)
                return bool(is_same and file.metadata.num_rows == stop - start)
        except (FileNotFoundError, DamagedFile):
            # A power cut leaves a file under its final name that is empty, or cut.
            return False

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a shard, its pages checked against their checksums.

        Args:
            number: Which.
            columns: Which columns, None for all.

        Raises:
            DamagedFile: Its bytes are not those that were written.
            OSError: It is not there, or cannot be read now.
        """
        path = self.path(number)
        # What the system refuses is raised here, and all that comes after is about the bytes.
        data = path.read_bytes()
        with damage_named(path):
            source = pa.BufferReader(data)
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                table = file.read(columns and [*columns], use_threads=False)
            fields = [self.schema.field(name) for name in table.column_names]
            return table.cast(pa.schema(fields, self.schema.metadata))

    def _schema_of(self, number: int) -> pa.Schema:
        """Return a schema that says which shard it is of, so that none stands for another."""
        return self.schema.with_metadata({**(self.schema.metadata or {}), _NUMBER: str(number)})

    def write(self, number: int, table: pa.Table) -> None:
        """Write a shard, onto the disk before it has its name."""
        data = parquet_bytes(table.cast(self._schema_of(number)))
        write_atomically(self.path(number), data, durable=True)


def metadata_in(path: Path) -> dict[str, Any] | None:
    """Return what a file of embeddings says of itself, None where there is no such file.

    Raises:
        OSError: It is there and cannot be read now.
    """
    try:
        with damage_named(path), opened(path) as source:
            return metadata_of(pq.read_schema(source))
    except (FileNotFoundError, DamagedFile):
        return None
