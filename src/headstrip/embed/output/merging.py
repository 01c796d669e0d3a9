"""Merges all shards into the file that the caller named."""

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
from headstrip.embed.output.table import finished_schema, open_writer, tensor_bytes
from headstrip.embed.output.work_dir import Shards
from headstrip.errors import HeadstripError
from headstrip.system.atomic import written_beside, written_together

_ROWS_PER_GROUP = 8192

_GROUP_BYTES = 64 << 20
"""Bytes of maps and tokens in a row group."""


class DamagedShard(Exception):
    """The shard of this path is missing or damaged; ``merge`` removed what was left of it."""


def merge(shards: Shards, out: Path, within: Path) -> None:
    """Write the file: a Parquet file, or an ``.npy`` with the other columns beside it.

    Args:
        shards: The shards; each of them is done.
        out: The file; an existing one is replaced.
        within: Folder of the temporary files, on the same file system.

    Raises:
        DamagedShard: The bytes of a shard changed on the disk.
        HeadstripError: The number of rows is not the number of images.
        OSError: The file cannot be written, or a shard cannot be read now; no shard is removed.
    """
    if out.suffix == ".npy":
        _merge_npy(shards, out, within)
        return
    rows, schema = 0, finished_schema(shards.schema, shards.total)
    with (
        written_beside(out, within=within, durable=True) as file,
        open_writer(file, schema) as writer,
    ):
        for table in _groups(shards):
            writer.write_table(table.cast(schema))
            rows += table.num_rows
        _check_rows(out, rows, shards)


def _merge_npy(shards: Shards, out: Path, within: Path) -> None:
    kind = shards.schema.field("embedding").type
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    # The rows take their name first. If the process dies before the array takes its own, the
    # checksum in the rows shows that the two files do not belong together.
    files = written_together([rows_file(out), out], within=within, durable=True)
    with files as (rows, values):
        array = ArrayWriter(values, dtype, (shards.total, kind.list_size))
        count = 0
        for table in _groups(shards, ["embedding"]):
            column = table["embedding"].combine_chunks()
            block = np.array(column.values).reshape(-1, kind.list_size)
            block[np.asarray(column.is_null())] = np.nan
            array.write(block)
            count += table.num_rows
        _check_rows(out, count, shards)
        _write_rows(shards, rows, array.description())


def _write_rows(shards: Shards, file: BinaryIO, description: dict[str, Any]) -> None:
    """Write all columns but the embeddings, with the description of the array in the metadata."""
    schema = finished_schema(shards.schema, shards.total, **{ARRAY: description})
    schema = schema.remove(schema.get_field_index("embedding"))
    with open_writer(file, schema) as writer:
        for table in _groups(shards, schema.names):
            writer.write_table(table.cast(schema))


def _groups(shards: Shards, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of all shards in order, in groups of about equal size."""
    pending: list[pa.Table] = []
    limit = min(_ROWS_PER_GROUP, _GROUP_BYTES // (tensor_bytes(shards.schema) or 1))
    for number in range(len(shards)):
        try:
            pending.append(shards.read(number, columns))
        except (DamagedFile, FileNotFoundError) as error:
            # Any other error may be a passing one: the shard may be whole, and stays.
            shards.path(number).unlink(missing_ok=True)
            raise DamagedShard(os.fspath(shards.path(number))) from error
        if sum(map(len, pending)) >= limit or number == len(shards) - 1:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []


def _check_rows(out: Path, found: int, shards: Shards) -> None:
    if found != shards.total:
        raise HeadstripError(
            f"headstrip did not write {str(out)!r}: it would have {found} rows for {shards.total} "
            "images. Please report this error."
        )
