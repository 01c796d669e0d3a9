"""What a run returns, and how it counts bad images."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headstrip.embed.output.damage import damage_errors, open_parquet
from headstrip.embed.output.paths import open_for_arrow, rows_file
from headstrip.embed.settings import EmbedSettings
from headstrip.errors import HeadstripError

_FILES_NAMED = 5


@dataclass(slots=True)
class Stages:
    """Seconds that threads spent in each stage, added up.

    Attributes:
        decoded: Inference threads, waiting for decoded images.
        forward: Inference threads, in the network.
        written: The writer thread, making and writing shards.
        prepared: The caller's thread, starting workers and preparing the engine.
        several: Number of pages of files with several of which the run used the first; for the
            first few such files.
        severals: How many such files there are.
    """

    decoded: float = 0.0
    forward: float = 0.0
    written: float = 0.0
    prepared: float = 0.0
    several: dict[str, int] = field(default_factory=dict)
    severals: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, seconds: float) -> None:
        """Add the seconds of one thread."""
        with self._lock:
            setattr(self, stage, getattr(self, stage) + seconds)

    def note_pages(self, path: str, pages: int) -> None:
        """Note a file of several pages or frames of which the run used the first."""
        with self._lock:
            self.severals += 1
            if len(self.several) < _FILES_NAMED:
                self.several[path] = pages


@dataclass(frozen=True)
class EmbedReport:
    """What a run did.

    Attributes:
        rows: Number of images, and of rows in the file.
        bad: Number of images without an embedding.
        computed: Number of images that this run read; earlier runs computed the others.
        out: The file, as the caller named it.
        settings: How the embeddings were computed.
        stages: Seconds in each stage of this run, and the files with several pages of which it
            used the first.
        left_out: How many files of the source were skipped, by their suffix in lower case (``""``
            for none), and how many ``links to folders``.
    """

    rows: int
    bad: int
    computed: int
    out: Path
    settings: EmbedSettings
    stages: Stages
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def failed(self) -> Mapping[str, str]:
        """The reason for each bad image, by its path in the file, which is read for it."""
        is_bad = pc.field("error").is_valid()
        table = rows_file(self.out)
        with damage_errors(table), open_for_arrow(table) as source:
            table = pq.read_table(source, columns=["path", "error"], filters=is_bad)
        return dict(zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True))


def count_bad(file: Path) -> tuple[int, str]:
    """Return how many rows of a file have an error, and the first of them with its reason.

    Raises:
        DamagedFile: The file is damaged.
        OSError: It cannot be read now.
    """
    count, example = 0, ""
    with open_parquet(file) as table:
        for group in range(table.metadata.num_row_groups):
            errors = table.read_row_group(group, ["error"])["error"]
            count += len(errors) - errors.null_count
            if not example and errors.null_count < len(errors):
                example = first_bad(table.read_row_group(group, ["path", "error"]))
    return count, example


def first_bad(table: pa.Table) -> str:
    """Return the path and the reason of the first bad image in rows that have one."""
    row = table["error"].is_valid().index(True).as_py()
    return f"{table['path'][row].as_py()!r}: {table['error'][row].as_py()}"


def check_errors(bad: int, limit: int | None, example: str) -> None:
    """Stop a run that has more bad images than it may have.

    Args:
        bad: Number of bad images so far.
        limit: How many are allowed; None for any number.
        example: One of them, with its reason.

    Raises:
        HeadstripError: There are more.
    """
    if limit is not None and bad > limit:
        raise HeadstripError(
            f"{bad} images could not be embedded, and max_errors is {limit}; one is {example} "
            "headstrip keeps the finished rows. Repair the images and run the same line again, or "
            "raise max_errors."
        )
