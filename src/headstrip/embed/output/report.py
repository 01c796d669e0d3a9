"""What became of the images of a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headstrip.embed.output.damage import damage_named
from headstrip.embed.output.paths import opened, rows_file
from headstrip.embed.pipeline import Stages
from headstrip.embed.plan import Settings


@dataclass(frozen=True)
class EmbedReport:
    """What became of the images of a source.

    Attributes:
        rows: Number of images, and of rows in the file.
        bad: Number of images that were not embedded.
        computed: Number of images that were read in this run; the others were done before.
        out: The file, as it was named.
        settings: How the embeddings were computed.
        stages: Seconds in each stage of this run, and the files in it that have several pages of
            which the first was used.
        left_out: What was left out of the source: how many files by their suffix in lower case,
            ``""`` for none, and how many ``links to folders``.
    """

    rows: int
    bad: int
    computed: int
    out: Path
    settings: Settings
    stages: Stages
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def failed(self) -> Mapping[str, str]:
        """The reason for each bad image, by its path in the file; read from there."""
        is_bad = pc.field("error").is_valid()
        table = rows_file(self.out)
        with damage_named(table), opened(table) as source:
            table = pq.read_table(source, columns=["path", "error"], filters=is_bad)
        return dict(zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True))


def count_bad(file: Path) -> int:
    """Return how many rows of a file have an error."""
    return bad_in(file)[0]


def bad_in(file: Path) -> tuple[int, str]:
    """Return how many rows of a file have an error, and the first of them with its reason.

    Raises:
        DamagedFile: It is damaged.
        OSError: It cannot be read now.
    """
    count, example = 0, ""
    with (
        damage_named(file),
        opened(file) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as table,
    ):
        for group in range(table.metadata.num_row_groups):
            found = table.read_row_group(group, ["error"])["error"]
            count += len(found) - found.null_count
            if not example and found.null_count < len(found):
                example = first_bad(table.read_row_group(group, ["path", "error"]))
    return count, example


def first_bad(table: pa.Table) -> str:
    """Return the path of the first bad image of rows that have one, and its reason."""
    row = table["error"].is_valid().index(True).as_py()
    return f"{table['path'][row].as_py()!r}: {table['error'][row].as_py()}"
