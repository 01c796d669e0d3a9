"""All shards into the one file that was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.array_file import ArrayWriter
from headstrip.embed.output.damage import DamagedFile
from headstrip.embed.output.paths import rows_file
from headstrip.embed.output.table import metadata_of, open_writer, with_metadata
from headstrip.embed.output.work_dir import Parts, Shards
from headstrip.errors import HeadstripError
from headstrip.system.atomic import written_beside, written_together

_ROWS_PER_GROUP = 8192


class DamagedShard(Exception):
    """A shard that is gone, or whose bytes are not those that were written; it is removed."""


def merge(parts: Parts, shards: Shards, out: Path) -> None:
    """Write the file: a Parquet file, or an ``.npy`` with the other columns beside it.

    Args:
        parts: Where it is written before it has its name.
        shards: All of them are done.
        out: The file; one that is there is replaced.

    Raises:
        DamagedShard: The bytes of a shard changed on the disk.
        HeadstripError: The rows are not as many as the images.
        OSError: The file cannot be written, or a shard cannot be read; no shard is removed.
    """
    if out.suffix == ".npy":
        _merge_npy(parts, shards, out)
        return
    rows = 0
    with (
        written_beside(out, within=parts.folder, durable=True) as file,
        open_writer(file, shards.schema) as writer,
    ):
        for table in _groups(shards):
            writer.write_table(table)
            rows += table.num_rows
        _check_rows(out, rows, shards)


def _merge_npy(parts: Parts, shards: Shards, out: Path) -> None:
    kind = shards.schema.field("embedding").type
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    # The array has its name last: where it is, its rows are, and between the two names the digest
    # in the rows says that they do not belong together.
    files = written_together([rows_file(out), out], within=parts.folder, durable=True)
    with files as (rows, values):
        array = ArrayWriter(values, dtype, (shards.total, kind.list_size))
        count = 0
        for table in _groups(shards, ["embedding"]):
            column = table["embedding"].combine_chunks()
            block = np.asarray(column.values).reshape(-1, kind.list_size).astype(dtype)
            block[np.asarray(column.is_null())] = np.nan
            array.write(block)
            count += table.num_rows
        _check_rows(out, count, shards)
        _write_rows(shards, rows, array.described())


def _write_rows(shards: Shards, file: BinaryIO, described: dict[str, Any]) -> None:
    """Write all columns but the embeddings, bound to the array by what describes it."""
    metadata = {**(metadata_of(shards.schema) or {}), ARRAY: described}
    schema = with_metadata(shards.schema, metadata)
    schema = schema.remove(schema.get_field_index("embedding"))
    with open_writer(file, schema) as writer:
        for table in _groups(shards, schema.names):
            writer.write_table(table.cast(schema))


def _groups(shards: Shards, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of all shards in order, in groups of about equal size."""
    pending: list[pa.Table] = []
    for number in range(len(shards)):
        try:
            pending.append(shards.read(number, columns))
        except (DamagedFile, FileNotFoundError) as error:
            # Nothing but damage removes a shard: one that cannot be read now may be good.
            shards.path(number).unlink(missing_ok=True)
            raise DamagedShard(os.fspath(shards.path(number))) from error
        if sum(map(len, pending)) >= _ROWS_PER_GROUP or number == len(shards) - 1:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []


def _check_rows(out: Path, found: int, shards: Shards) -> None:
    if found != shards.total:
        raise HeadstripError(
            f"{str(out)!r} was not written: it would have {found} rows for {shards.total} images. "
            "Report it."
        )
