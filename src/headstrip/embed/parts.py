"""The folder beside a file of embeddings that holds what is done of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from headstrip.atomic import sync_folder, write_atomically
from headstrip.embed.outputs import opened
from headstrip.embed.plan import Plan
from headstrip.embed.table import metadata_of, parquet_bytes
from headstrip.errors import HeadstripError
from headstrip.interrupting import interrupts_held

_SHARD = "{:06d}.parquet"
_LOCK = "lock"
_STATE = "plan.json"
_NUMBER = b"headstrip.shard"
_GENERATION = re.compile(r"[0-9a-f]{16}")


class Parts:
    """``OUT.parts``, held by this process: a plan, and a folder of shards for each listing.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; ``opened_parts`` makes it and holds it."""
        self.folder = folder

    @property
    def plan(self) -> Plan | None:
        """The plan that the shards were begun with, None before ``begin``."""
        plan: Plan | None = Plan.from_json(self._state().get("plan") or {})
        return plan

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
            shutil.rmtree(folder)
        (self.folder / _STATE).unlink(missing_ok=True)

    def _state(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def generations(self) -> list[Path]:
        """Return the folders of listings, the one written to last first."""
        found = [path for path in self.folder.iterdir() if _GENERATION.fullmatch(path.name)]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def has_shards(self) -> bool:
        """Whether anything is done."""
        return any(True for folder in self.generations() for _ in folder.glob("[0-9]*.parquet"))

    def sweep(self) -> None:
        """Remove what was being written when a run was ended."""
        for folder in (self.folder, *self.generations()):
            for path in folder.glob(".*"):
                if path.is_file():
                    path.unlink()

    def remove(self) -> None:
        """Remove all of it, the shards before what says that there are any."""
        self.clear()
        with suppress(OSError):
            self.sweep()
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()
        sync_folder(self.folder.parent)


@contextmanager
def opened_parts(out: Path) -> Iterator[Parts]:
    """Make the folder of parts, or find it, and let no other process write to it meanwhile.

    Nothing is left of it where no shard was done.

    Args:
        out: The file that the parts are for.

    Raises:
        HeadstripError: It cannot be made, has something else in it, or another process holds it.
    """
    folder = out.with_name(out.name + ".parts")
    parts, lock = Parts(folder), FileLock(folder / _LOCK)
    try:
        try:
            with interrupts_held():
                _lock(folder, lock)
        except Timeout as error:
            # It is an OSError too.
            raise HeadstripError(
                f"Another process is writing {str(out)!r} now. Wait for it, or name another file."
            ) from error
        except OSError as error:
            raise HeadstripError(
                f"The folder {str(folder)!r} cannot be made ({error.strerror}). "
                "Change the permissions there, or name another file."
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


def _lock(folder: Path, lock: FileLock) -> None:
    """Lock the folder that stands there, and no other that was removed since."""
    while True:
        folder.mkdir(exist_ok=True)
        _refuse_others(folder)
        try:
            lock.acquire(timeout=0)
        except FileNotFoundError:
            continue
        if (folder / _LOCK).exists():
            return
        lock.release()


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that has something else in it: it is removed at the end."""
    for path in folder.iterdir():
        is_ours = path.name in {_LOCK, _STATE} or path.name.startswith(".")
        if not is_ours and not _GENERATION.fullmatch(path.name):
            raise HeadstripError(
                f"The folder {str(folder)!r} is for what is done so far, and has {path.name!r} in "
                "it. Move that, or name another file."
            )


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
        """Whether a shard's file says itself that it is whole and this run's."""
        start, stop = self.bounds(number)
        try:
            with opened(self.path(number)) as source, pq.ParquetFile(source) as file:
                is_same = file.schema_arrow.equals(self._schema_of(number), check_metadata=True)
                return bool(is_same and file.metadata.num_rows == stop - start)
        except (OSError, pa.ArrowException):
            # A power cut leaves a file under its final name that is empty, or cut.
            return False

    def read(self, number: int) -> pa.Table:
        """Read a shard, its pages checked against their checksums.

        Raises:
            OSError: It is not there, or damaged.
        """
        return read_checked(self.path(number)).cast(self.schema)

    def _schema_of(self, number: int) -> pa.Schema:
        """Return a schema that says which shard it is of, so that none stands for another."""
        return self.schema.with_metadata({**(self.schema.metadata or {}), _NUMBER: str(number)})

    def write(self, number: int, table: pa.Table) -> None:
        """Write a shard, onto the disk before it has its name."""
        data = parquet_bytes(table.cast(self._schema_of(number)))
        write_atomically(self.path(number), data, durable=True)


def read_checked(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file whose pages are checked.

    Raises:
        OSError: It is not there, or damaged.
    """
    try:
        with (
            opened(path) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            return file.read(columns, use_threads=False)
    except pa.ArrowException as error:
        raise OSError(f"{os.fspath(path)}: {error}") from error


def metadata_in(path: Path) -> dict[str, Any] | None:
    """Return what a file of embeddings says of itself, None where there is no such file."""
    try:
        with opened(path) as source:
            return metadata_of(pq.read_schema(source))
    except (OSError, pa.ArrowException):
        return None
