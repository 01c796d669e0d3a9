"""Compare the sha256 of a weights file, and read the file.

headstrip never executes anything in a file. A ``.safetensors`` file contains only data. torch reads
all others with ``weights_only=True``, or a reader that accepts even fewer classes reads them.
headstrip hashes and parses through one open descriptor, so it parses the bytes that it hashed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from headstrip.errors import WeightsError
from headstrip.network.checkpoints import extra_states, plain_state_dict
from headstrip.weights.addresses import checkpoints
from headstrip.weights.folders import lies_in_a_cache
from headstrip.weights.mapping import Guard, may_map
from headstrip.weights.parsing import Parsed, parse
from headstrip.weights.problems import not_readable
from headstrip.weights.records import add_facts, find_copy, recorded, remember
from headstrip.weights.sharded_checkpoint import is_index, read_index
from headstrip.weights.torch_file import ParseOptions
from headstrip.weights.trust import (
    FIRST_USE,
    Expectation,
    FileIdentity,
    compare,
    expectation,
    identify,
    origin_of,
)

VERIFY = ("changed", "always")
_FILLED = "filled"
_READ = "read"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The options of reading a weights file.

    Attributes:
        verify: ``changed`` to hash a file only if its size, time or inode changed since the last
            hash; ``always`` to hash it every time.
        mapped: Whether to map the file. None means to map a file in a cache, and to read a file
            that the user named by its path into memory.
        limit: The largest allowed number of bytes of tensors, or None for no limit.
        locations: The locations of the weights in the catalog.
        name: The name that the user passed, such as ``resnet50.IMAGENET1K_V1``, for messages. Empty
            for the user's own file.
    """

    verify: str = "changed"
    mapped: bool | None = None
    limit: int | None = None
    locations: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The content of a weights file, and its sha256.

    Attributes:
        path: The file.
        sha256: The sha256 of the file in hexadecimal. For a checkpoint in several files, the
            sha256 of the lines that ``sha256sum`` prints for them, sorted by name.
        content: The object in the file. Its tensors are on the CPU, each starts at a multiple of 64
            bytes, and writing to one never changes the file.
        guards: Notice that a mapped file is rewritten in place.
        filled: Whether an earlier check found that every vector in the file has values.
        stat: ``os.fstat`` before hashing, or None for a checkpoint in several files.
    """

    path: Path
    sha256: str
    content: object
    guards: tuple[Guard, ...] = ()
    filled: bool = False
    stat: os.stat_result | None = field(default=None, repr=False, compare=False)

    def note_filled(self) -> None:
        """Record that every vector in the file has values, so that later calls skip this check."""
        if self.stat is not None:
            add_facts(self.path, self.stat, **{_FILLED: True})


def read_weights(path: Path, sha256: str = "", options: ReadOptions = ReadOptions()) -> WeightsFile:
    """Compare the sha256 of a weights file, and read the file.

    If ``sha256`` is empty, `trust.expectation` chooses the sha256 to compare with.

    Args:
        path: A ``.safetensors`` file, the ``.safetensors.index.json`` of several, or a file of
            ``torch.save``.
        sha256: The expected sha256 in hexadecimal, or its first digits, or "" if it is unknown.
        options: How to read the file.

    Raises:
        WeightsError: The file cannot be read, has another sha256, is damaged, has more than tensors
            and plain values, or has more bytes than ``options.limit``.
    """
    if is_index(path):
        return _read_shards(path, sha256, options)
    try:
        # Reading a pipe or a device may never end.
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise WeightsError(f"{str(path)!r} is not a regular file. Pass the path of a file.")
        file = open(path, "rb")  # noqa: SIM115  (closed below)
    except (OSError, ValueError) as error:
        raise not_readable(path, error) from error
    try:
        with file:
            return _read(path, file, sha256, options)
    except OSError as error:
        raise not_readable(path, error) from error


def _read(path: Path, file: BinaryIO, sha256: str, options: ReadOptions) -> WeightsFile:
    expected = _expectation(path, sha256, options)
    seen = identify(path, file, always=options.verify == "always", name=options.name)
    compare(path, seen.sha256, expected, options.name)
    copy = find_copy(seen.sha256)
    of_copy = _parse_copy(copy, options) if copy is not None else None
    read_before = seen.facts.get(_READ, False)
    # Without a name, the user named the file by its path, so it is the user's own file.
    mapped = options.mapped
    if mapped is None:
        mapped = bool(options.name) and _is_safe_to_map(path)
    parse_options = ParseOptions(
        mapped=mapped,
        checked=bool(expected.sha256) or read_before,
        read_before=read_before,
        limit=options.limit,
    )
    parsed = of_copy or _parse(path, file, seen, parse_options)
    if seen.was_hashed:
        remember(path, seen.stat, seen.sha256, origin=origin_of(path))
    if of_copy is None and not read_before:
        add_facts(path, seen.stat, **{_READ: True})
    guards = (parsed.guard,) if parsed.guard is not None else ()
    filled = seen.facts.get(_FILLED, False)
    return WeightsFile(path, seen.sha256, parsed.content, guards, filled, seen.stat)


def _parse(path: Path, file: BinaryIO, seen: FileIdentity, options: ParseOptions) -> Parsed:
    """Parse an open file, and refuse it if another program wrote to it during that."""
    parsed = parse(path, file, options)
    now, then = os.fstat(file.fileno()), seen.stat
    if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
        raise WeightsError(
            f"Another program wrote to the file {path} while headstrip read it. Try again when the "
            "program has finished. To replace a file safely, write another one and rename it."
        )
    if parsed.guard is not None:
        parsed.guard.sha256 = seen.sha256
    return parsed


def _is_safe_to_map(path: Path) -> bool:
    return lies_in_a_cache(path) and may_map(path)


def _parse_copy(copy: Path, options: ReadOptions) -> Parsed | None:
    """Read the optimized copy of a file.

    Return None if the copy has no record or another sha256. The caller then reads the file itself.
    """
    record = recorded(copy)
    if record is None:
        return None
    with suppress(WeightsError, OSError), open(copy, "rb") as file:
        seen = identify(copy, file, always=options.verify == "always")
        compare(copy, seen.sha256, Expectation(record.sha256, FIRST_USE))
        mapped = _is_safe_to_map(copy) if options.mapped is None else options.mapped
        parse_options = ParseOptions(mapped=mapped, checked=True, limit=options.limit)
        parsed = _parse(copy, file, seen, parse_options)
        if seen.was_hashed:
            remember(copy, seen.stat, seen.sha256, origin="optimized")
        return parsed
    return None


def _expectation(path: Path, sha256: str, options: ReadOptions) -> Expectation:
    urls = [one for one in options.locations if one.startswith(("https:", "http:"))]
    url = next((one for one in urls if _is_download_of(path, one)), None)
    return expectation(path, sha256, url=url)


def _is_download_of(path: Path, url: str) -> bool:
    return path.parent == checkpoints() and url.partition("?")[0].endswith(f"/{path.name}")


def _read_shards(path: Path, sha256: str, options: ReadOptions) -> WeightsFile:
    """Read the files that an index names, as one file."""
    shard_of = read_index(path)
    content: dict[str, Any] = {}
    digest = hashlib.sha256()
    guards: tuple[Guard, ...] = ()
    for name in sorted(set(shard_of.values())):
        shard = read_weights(path.parent / name, options=replace(options, locations=()))
        digest.update(f"{shard.sha256}  {name}\n".encode())
        held = {**plain_state_dict(shard.content), **extra_states(shard.content)}
        # Another shard may have an old copy of a tensor. The index says which one counts.
        content.update(
            (key, value) for key, value in held.items() if shard_of.get(key, name) == name
        )
        guards += shard.guards
    compare(path, digest.hexdigest(), Expectation(sha256.lower(), "the catalog"), options.name)
    if lost := sorted(shard_of.keys() - content.keys()):
        raise WeightsError(
            f"The files that the index {path} names lack {len(lost)} of its tensors, such as "
            f"{lost[0]!r}. They do not belong to one checkpoint. Get all of them again."
        )
    return WeightsFile(path, digest.hexdigest(), content, guards)
