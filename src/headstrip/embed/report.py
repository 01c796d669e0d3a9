"""What a run returns, and how it counts bad images."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
        multipage_count: Number of files with several pages or frames, of which the run used the
            first.
        multipage_examples: The first few of these files, with their numbers of pages.
    """

    decoded: float = 0.0
    forward: float = 0.0
    written: float = 0.0
    prepared: float = 0.0
    multipage_count: int = 0
    multipage_examples: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, seconds: float) -> None:
        """Add the seconds of one thread."""
        with self._lock:
            setattr(self, stage, getattr(self, stage) + seconds)

    def note_pages(self, path: str, pages: int) -> None:
        """Note a file of several pages or frames of which the run used the first."""
        with self._lock:
            self.multipage_count += 1
            self._add_example(path, pages)

    def to_json(self) -> str:
        """Return the attributes as JSON, for another process."""
        names = [one.name for one in fields(self) if one.name != "_lock"]
        return json.dumps({name: getattr(self, name) for name in names})

    @classmethod
    def from_json(cls, text: str) -> Stages:
        """Parse what ``to_json`` returned."""
        return cls(**json.loads(text))

    def include(self, other: Stages) -> None:
        """Add what another part of the same run measured and noted."""
        for stage in ("decoded", "forward", "written", "prepared"):
            self.add(stage, getattr(other, stage))
        with self._lock:
            self.multipage_count += other.multipage_count
            for path, pages in other.multipage_examples.items():
                self._add_example(path, pages)

    def _add_example(self, path: str, pages: int) -> None:
        if len(self.multipage_examples) < _FILES_NAMED:
            self.multipage_examples[path] = pages


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
            "headstrip keeps the finished rows. Repair the images and run the same command "
            "again, or raise max_errors."
        )
