"""All shards into the one file that was asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from headstrip.atomic import written_beside
from headstrip.embed.outputs import rows_file
from headstrip.embed.parts import Parts, Shards
from headstrip.embed.table import open_writer
from headstrip.errors import HeadstripError

_ROWS_PER_GROUP = 8192


class DamagedShard(Exception):
    """A shard whose pages are not those that were written; it is removed."""


def merge(parts: Parts, shards: Shards, out: Path) -> None:
    """Write the file: a Parquet file, or an ``.npy`` with the other columns beside it.

    Args:
        parts: Where it is written before it has its name.
        shards: All of them are done.
        out: The file; one that is there is replaced.

    Raises:
        DamagedShard: The bytes of a shard changed on the disk.
        HeadstripError: The rows are not as many as the images.
        OSError: The file cannot be written.
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
    schema = shards.schema.remove(shards.schema.get_field_index("embedding"))
    rows = 0
    with ExitStack() as stack:
        # The array has its name last: where it is, its rows are.
        values = stack.enter_context(written_beside(out, within=parts.folder, durable=True))
        beside = rows_file(out)
        file = stack.enter_context(written_beside(beside, within=parts.folder, durable=True))
        writer = stack.enter_context(open_writer(file, schema))
        header = {"descr": dtype.str, "fortran_order": False,
                  "shape": (shards.total, kind.list_size)}  # fmt: skip
        np.lib.format.write_array_header_1_0(values, header)
        for table in _groups(shards):
            column = table["embedding"].combine_chunks()
            array = np.asarray(column.values).reshape(-1, kind.list_size).astype(dtype)
            array[np.asarray(column.is_null())] = np.nan
            values.write(array.tobytes())
            writer.write_table(table.drop_columns(["embedding"]).cast(schema))
            rows += table.num_rows
        _check_rows(out, rows, shards)


def _groups(shards: Shards) -> Iterator[pa.Table]:
    """Yield the rows of all shards in order, in groups of about equal size."""
    pending: list[pa.Table] = []
    for number in range(len(shards)):
        try:
            pending.append(shards.read(number))
        except OSError as error:
            if error.errno not in (None, errno.EIO, errno.ENOENT):
                raise
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
