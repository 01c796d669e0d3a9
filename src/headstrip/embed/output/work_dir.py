"""The folder ``OUT.parts`` beside a file of embeddings, with the finished shards.

headstrip removes only files that it can identify as its own: their names are known, they are
regular files in real folders, and shards have the listing that they belong to beside them.
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
from filelock import BaseFileLock, Timeout

from headstrip.embed.listing import FILE as LISTING
from headstrip.embed.listing import is_listing
from headstrip.embed.output.damage import DamagedFile, damage_errors, open_parquet
from headstrip.embed.output.paths import rows_file
from headstrip.embed.output.provenance import Provenance
from headstrip.embed.output.table import parquet_bytes
from headstrip.errors import HeadstripError
from headstrip.system import bounded_json
from headstrip.system.atomic import final_name, short_name, sync_folder, write_atomically
from headstrip.system.file_lock import file_lock
from headstrip.system.interrupts import interrupts_held
from headstrip.system.os_errors import explain

_SHARD = "{:06d}.parquet"
_LOCK = "lock"
_STATE = "plan.json"
_NUMBER = b"headstrip.shard"
_LISTING_FOLDER = re.compile(r"[0-9a-f]{16}")
_SHARD_NAME = re.compile(r"[0-9]{6,12}\.parquet")


def work_folder(out: Path) -> Path:
    """Return the folder with the finished shards of a file."""
    return out.with_name(out.name + ".parts")


class WorkDir:
    """``OUT.parts``, locked by this process: its state, and a folder of shards for each listing.

    Attributes:
        folder: The path of the folder.
    """

    def __init__(self, out: Path) -> None:
        """Set the paths; ``open_work_dir`` creates and locks the folder."""
        self.folder = work_folder(out)
        self._temporary_of = {_STATE, short_name(out.name), short_name(rows_file(out).name)}

    @property
    def provenance(self) -> Provenance | None:
        """How the shards are computed; None before ``begin``."""
        return Provenance.from_json(self._state().get("plan"))

    @property
    def replaces(self) -> bool:
        """Whether the run that ``begin`` recorded replaces an existing file, and uses no row."""
        state = self._state()
        # Earlier versions wrote the second key.
        return bool(state.get("replaces", state.get("anew")))

    def begin(self, provenance: Provenance, *, replaces: bool) -> None:
        """Record how the shards are computed; it is on the disk before any shard is."""
        state = {"plan": provenance.to_json(), "replaces": replaces}
        text = json.dumps(state, sort_keys=True, indent=1)
        write_atomically(self.folder / _STATE, text.encode(), durable=True)

    def _state(self) -> dict[str, Any]:
        try:
            found = bounded_json.read(self.folder / _STATE, "The plan")
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def shard_files(self) -> list[Path]:
        """Return the shards of all listings; those of the listing written to last come first."""
        return [path for folder in self._listing_folders() for path in _shards_in(folder)]

    def _listing_folders(self) -> list[Path]:
        found = [path for path in self.folder.iterdir() if _is_listing_folder(path)]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def clear(self) -> None:
        """Remove the shards, and then the state."""
        for folder in self._listing_folders():
            _remove_shards(folder)
        if _is_regular(self.folder / _STATE):
            (self.folder / _STATE).unlink()

    def remove_temporary_files(self) -> None:
        """Remove the files that were being written when an earlier run stopped."""
        for path in self.folder.iterdir():
            if _temporary_of(path) in self._temporary_of:
                path.unlink()
        for folder in self._listing_folders():
            _remove_temporary_files(folder)

    def remove(self) -> list[str]:
        """Remove everything that headstrip wrote, the shards before the state that announces them.

        Returns:
            Names of files in the folder that headstrip did not write, and that stay.

        Raises:
            OSError: A file cannot be removed.
        """
        self.clear()
        self.remove_temporary_files()
        left = sorted(path.name for path in self.folder.iterdir() if path.name != _LOCK)
        with suppress(OSError):
            # Windows removes no locked file; `open_work_dir` does it after it released the lock.
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()
        sync_folder(self.folder.parent)
        return left

    def check_contents(self) -> None:
        """Refuse a folder that is a link, or contains what headstrip did not write.

        Raises:
            HeadstripError: It is, or does.
        """
        if _is_link(self.folder):
            raise HeadstripError(
                f"{str(self.folder)!r} is a symbolic link, and headstrip removes files in the "
                "folder of that name. Remove the link, or pass another file."
            )
        for path in self.folder.iterdir():
            # Hidden files belong to the system, such as .DS_Store; headstrip leaves them alone.
            if path.name.startswith("."):
                continue
            if _is_listing_folder(path):
                self._check_listing_folder(path)
                continue
            if not _is_regular(path) or path.name not in (_STATE, _LOCK):
                raise self._foreign(path)
            if path.name == _STATE and "plan" not in self._state():
                raise HeadstripError(
                    f"{str(path)!r} is damaged, or headstrip did not write it. Move it away, or "
                    "pass another file."
                )

    def _check_listing_folder(self, folder: Path) -> None:
        for path in folder.iterdir():
            known = path.name == LISTING or _SHARD_NAME.fullmatch(path.name)
            if not path.name.startswith(".") and not (known and _is_regular(path)):
                raise self._foreign(path)
        if next(_shards_in(folder), None) is not None and not is_listing(folder / LISTING):
            raise self._foreign(folder)

    def _foreign(self, path: Path) -> HeadstripError:
        name = path.relative_to(self.folder).as_posix()
        return HeadstripError(
            f"headstrip keeps finished rows in the folder {str(self.folder)!r}, and it has "
            f"{name!r} in it, which headstrip did not write. Move that, or pass another file."
        )


def _is_listing_folder(path: Path) -> bool:
    """Whether a path is a folder of shards: a real one, not a link to another."""
    return bool(_LISTING_FOLDER.fullmatch(path.name)) and not _is_link(path) and path.is_dir()


def _is_link(path: Path) -> bool:
    # A junction of Windows is not a symbolic link, and leads to another folder too.
    is_junction = getattr(os.path, "isjunction", lambda _: False)
    return path.is_symlink() or bool(is_junction(path))


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _temporary_of(path: Path) -> str | None:
    """Return the name that a temporary file would have got, None for any other file."""
    return final_name(path.name) if _is_regular(path) else None


def _shards_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _SHARD_NAME.fullmatch(path.name) and _is_regular(path):
            yield path


def _remove_temporary_files(folder: Path) -> None:
    for path in folder.iterdir():
        name = _temporary_of(path)
        if name is not None and (name == LISTING or _SHARD_NAME.fullmatch(name)):
            path.unlink()


def _remove_shards(folder: Path) -> None:
    """Remove the files of headstrip in a folder of shards, the listing last: it identifies them.

    Shards without a listing belong to somebody else, and stay.
    """
    if is_listing(folder / LISTING):
        for path in _shards_in(folder):
            path.unlink()
    _remove_temporary_files(folder)
    if next(_shards_in(folder), None) is None and _is_regular(folder / LISTING):
        (folder / LISTING).unlink()
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def open_work_dir(out: Path) -> Iterator[WorkDir]:
    """Create the work folder, or open it, and lock it against other processes.

    The folder is removed afterwards if it has no finished shard.

    Args:
        out: The file of embeddings.

    Raises:
        HeadstripError: The folder cannot be created, contains something else, or another process
            has locked it.
    """
    work_dir = WorkDir(out)
    folder, lock = work_dir.folder, file_lock(work_dir.folder / _LOCK)
    try:
        try:
            with interrupts_held():
                _lock(work_dir, lock)
        except Timeout as error:
            # Timeout is an OSError, so it comes first.
            raise HeadstripError(
                f"Another process is writing {str(out)!r} now. Wait for it, or pass another file."
            ) from error
        except OSError as error:
            what = f"headstrip cannot create and lock the folder {str(folder)!r}"
            raise HeadstripError(explain(error, what)) from error
        yield work_dir
    finally:
        with suppress(OSError):
            if lock.is_locked and folder.is_dir() and not work_dir.shard_files():
                work_dir.remove()
        lock.release()
        with suppress(OSError):
            # Removes a folder that was created and not locked.
            folder.rmdir()


def _lock(work_dir: WorkDir, lock: BaseFileLock) -> None:
    """Lock the folder; try again if another process removed it between creating and locking."""
    while True:
        if not _is_link(work_dir.folder):
            work_dir.folder.mkdir(exist_ok=True)
        work_dir.check_contents()
        try:
            lock.acquire(timeout=0)
        except FileNotFoundError:
            continue
        if (work_dir.folder / _LOCK).exists():
            return
        lock.release()


class Shards:
    """The shards of one listing: files of rows, each of which is whole or missing.

    Attributes:
        folder: The folder of the shards.
        schema: Schema of each shard; its metadata identify the run.
        rows: Rows of a shard; the last one may have fewer.
        total: Rows of all shards.
    """

    def __init__(self, folder: Path, schema: pa.Schema, rows: int, total: int) -> None:
        """Keep the arguments; the folder must exist."""
        self.folder, self.schema, self.rows, self.total = folder, schema, rows, total

    def __len__(self) -> int:
        """Return the number of shards."""
        return -(-self.total // self.rows)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the first row of a shard, and the row after its last."""
        return number * self.rows, min(self.total, (number + 1) * self.rows)

    def count_rows(self, numbers: Sequence[int]) -> int:
        """Return how many rows some shards have together."""
        return sum(stop - start for start, stop in map(self.bounds, numbers))

    def path(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.folder / _SHARD.format(number)

    def is_done(self, number: int) -> bool:
        """Whether the footer of a shard says that it is whole and belongs to this run.

        Raises:
            OSError: The shard exists and cannot be read now.
        """
        start, stop = self.bounds(number)
        try:
            with open_parquet(self.path(number)) as file:
                is_same = file.schema_arrow.equals(self._schema_of(number), check_metadata=True)
                return bool(is_same and file.metadata.num_rows == stop - start)
        except (FileNotFoundError, DamagedFile):
            # A power cut can leave an empty or cut file under the final name.
            return False

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a shard, and verify the checksums of its pages.

        Args:
            number: Number of the shard.
            columns: Names of the columns, None for all.

        Raises:
            DamagedFile: Its bytes are not those that were written.
            OSError: It is missing, or cannot be read now.
        """
        path = self.path(number)
        # Read first: whatever is raised afterwards is about the bytes, not about the system.
        data = path.read_bytes()
        with damage_errors(path):
            source = pa.BufferReader(data)
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                table = file.read(columns and [*columns], use_threads=False)
            fields = [self.schema.field(name) for name in table.column_names]
            return table.cast(pa.schema(fields, self.schema.metadata))

    def write(self, number: int, table: pa.Table) -> None:
        """Write a shard; its bytes are on the disk before it has its name."""
        data = parquet_bytes(table.cast(self._schema_of(number)))
        write_atomically(self.path(number), data, durable=True)

    def _schema_of(self, number: int) -> pa.Schema:
        """Return the schema with the number of a shard, so that no shard passes for another."""
        return self.schema.with_metadata({**(self.schema.metadata or {}), _NUMBER: str(number)})
