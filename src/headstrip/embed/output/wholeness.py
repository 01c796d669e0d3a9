"""Whether a finished file of embeddings is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.array_file import ArrayProblem, check_array
from headstrip.embed.output.damage import DamagedFile, damage_named
from headstrip.embed.output.paths import opened, rows_file


def broken_pair(out: Path, metadata: dict[str, Any]) -> str | None:
    """Say why an ``.npy`` file is not the array of its rows; None where it is, and for Parquet.

    Args:
        out: The file of embeddings.
        metadata: What its rows say of themselves.

    Raises:
        OSError: A file is there and cannot be read now.
    """
    table = rows_file(out)
    if table == out:
        return None
    if metadata.get(ARRAY) is None:
        return "was written by an earlier headstrip, which did not bind it to its rows"
    try:
        with damage_named(table), opened(table) as source:
            rows = pq.read_metadata(source).num_rows
        with open(out, "rb") as file:
            check_array(file, str(table), rows, metadata[ARRAY])
    except FileNotFoundError:
        return "is gone"
    except DamagedFile:
        return "has damaged rows beside it"
    except ArrayProblem as problem:
        return str(problem)
    return None


def damage_in(table: Path) -> str | None:
    """Read all pages of a Parquet file, and say whether one is damaged; None where none is.

    Raises:
        OSError: The file cannot be read now.
    """
    try:
        with (
            damage_named(table),
            opened(table) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            for number in range(file.metadata.num_row_groups):
                file.read_row_group(number)
    except (FileNotFoundError, DamagedFile):
        return "is damaged"
    return None
