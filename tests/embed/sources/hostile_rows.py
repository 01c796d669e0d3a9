"""Read hostile rows in this process, and report what it opened; run as a program.

Standard input is a JSON object with ``rows`` (the texts), ``sources`` (the texts to pass as the
source) and ``list`` (a file to list the rows in). Standard output is a JSON object with the message
of each row for each way to pass the rows, and everything that was opened meanwhile.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import headstrip.embed.sources.urls
import headstrip.weights.hub  # noqa: F401
from headstrip import HeadstripError
from headstrip.embed.sources import Source, source_of

DANGERS = (
    "open",
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.system",
    "os.spawn",
    "os.startfile",
    "urllib.",
    "ftplib.",
    "ctypes.dlopen",
)


def main() -> None:
    order = json.load(sys.stdin)
    rows, place = order["rows"], order["list"]
    with open(place + ".jsonl", "w") as file:
        file.writelines(json.dumps({"path": row}) + "\n" for row in rows)
    pq.write_table(pa.table({"path": rows}), place + ".parquet")
    lists = {place + ".jsonl", place + ".parquet"}
    # Import and open everything that is needed before the recording starts.
    assert len([each for source in lists_of(place) for each in source.items()]) == 2 * len(rows)
    read(source_of(["none"]))
    opened: list[str] = []

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(DANGERS) and (event != "open" or arguments[0] not in lists):
            opened.append(f"{event} {arguments}")

    sys.addaudithook(record)
    by_jsonl, by_parquet = lists_of(place)
    found = {
        "jsonl": read(by_jsonl),
        "parquet": read(by_parquet),
        "iterable": read(source_of(rows)),
        "source": [refused(source_of, row) for row in order["sources"]],
    }
    print(json.dumps({"found": found, "opened": list(opened), "fsspec": "fsspec" in sys.modules}))


def lists_of(place: str) -> list[Source]:
    return [source_of(place + suffix) for suffix in (".jsonl", ".parquet")]


def read(source: Source) -> list[str]:
    items = list(source.items())
    reader = pickle.loads(pickle.dumps(source.reader()))
    return [refused(reader.read, item) for item in items]


def refused(function: Callable[[Any], object], argument: Any) -> str:
    try:
        function(argument)
    except HeadstripError as error:
        return str(error)
    return "NOT REFUSED"


if __name__ == "__main__":
    os.environ.pop("HEADSTRIP_OFFLINE", None)
    main()
