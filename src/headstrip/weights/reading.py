"""A weights file, read after its bytes were compared with what they must be.

Nothing in a file is ever executed: ``.safetensors`` is data, everything else is read with
``weights_only=True`` or by a reader that knows still fewer classes. The bytes that are hashed are
the bytes that are parsed: one descriptor is open from the one to the other.
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
from headstrip.weights.trust import (
    Expectation,
    FileIdentity,
    check_address,
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
    """How a weights file is to be read.

    Attributes:
        verify: ``changed`` to hash a file whose size, time or inode changed since the last hash;
            ``always`` to hash it in any case.
        mapped: Whether to map it; None for mapping a file in a cache, and reading one that a user
            named by its path.
        limit: The most bytes of tensors that it may hold, None for any.
        locations: Where it may be from.
        name: What the user asked for, for messages; empty for the user's own file.
    """

    verify: str = "changed"
    mapped: bool | None = None
    limit: int | None = None
    locations: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a weights file holds, and which bytes it was.

    Attributes:
        path: The file.
        sha256: Hexadecimal sha256 of its bytes; of a checkpoint in several files, that of the
            lines that ``sha256sum`` prints for them in the order of their names.
        content: The object as read. Its tensors are on the CPU, each at a multiple of 64 bytes;
            writing to one never changes the file.
        guards: What notices that a mapped file is rewritten in place.
        filled: Whether these bytes are known to leave no vector without values.
        stat: What the file was like when its bytes were compared; None for several files.
    """

    path: Path
    sha256: str
    content: object
    guards: tuple[Guard, ...] = ()
    filled: bool = False
    stat: os.stat_result | None = field(default=None, repr=False, compare=False)

    def note_filled(self) -> None:
        """Record that no vector in the file is without values, so that none is read again."""
        if self.stat is not None:
            add_facts(self.path, self.stat, **{_FILLED: True})


def read_weights(path: Path, sha256: str = "", options: ReadOptions = ReadOptions()) -> WeightsFile:
    """Read a weights file, after comparing its hash.

    Without ``sha256`` a file is compared with the hash in the name that a server gave it, with
    the one that the Hugging Face hub's cache stores it under, or with that of its first use.

    Args:
        path: A ``.safetensors`` file, the ``.safetensors.index.json`` of several, or a file of
            ``torch.save``.
        sha256: Hexadecimal sha256 that it must have, whole or its first digits; empty for any.
        options: How to read it.

    Raises:
        WeightsError: The file cannot be read, has another hash, is damaged, holds more than
            tensors and plain values, or more than its network can take.
    """
    if is_index(path):
        return _read_shards(path, sha256, options)
    try:
        # A pipe or a device may never end, and cannot be mapped.
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise WeightsError(f"{str(path)!r} is not a regular file. Pass the path of one.")
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
    # A file without a name that headstrip knows was named by its path: it is the user's own.
    mapped = (
        bool(options.name) and _is_safe_to_map(path) if options.mapped is None else options.mapped
    )
    checked = bool(expected.sha256) or read_before
    parsed = of_copy or _parse(
        path, file, seen, options, mapped=mapped, checked=checked, read_before=read_before
    )
    if seen.was_hashed:
        remember(path, seen.stat, seen.sha256, origin=origin_of(path))
    if of_copy is None and not read_before:
        add_facts(path, seen.stat, **{_READ: True})
    guards = (parsed.guard,) if parsed.guard is not None else ()
    filled = seen.facts.get(_FILLED, False)
    return WeightsFile(path, seen.sha256, parsed.content, guards, filled, seen.stat)


def _parse(
    path: Path,
    file: BinaryIO,
    seen: FileIdentity,
    options: ReadOptions,
    *,
    mapped: bool,
    checked: bool,
    read_before: bool = False,
) -> Parsed:
    """Parse an open file, and refuse one that was written to meanwhile."""
    parsed = parse(
        path, file, mapped=mapped, checked=checked, read_before=read_before, limit=options.limit
    )
    now, then = os.fstat(file.fileno()), seen.stat
    if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
        raise WeightsError(
            f"The file {path} was written to while headstrip read it. Build again when that is "
            "over. To replace a file safely, write another one and rename it."
        )
    if parsed.guard is not None:
        parsed.guard.sha256 = seen.sha256
    return parsed


def _is_safe_to_map(path: Path) -> bool:
    return lies_in_a_cache(path) and may_map(path)


def _parse_copy(copy: Path, options: ReadOptions) -> Parsed | None:
    """Read the copy that `headstrip weights optimize` made of a file.

    It is None where nothing says which bytes it must have, or it has others: the file itself is
    as good.
    """
    record = recorded(copy)
    if record is None:
        return None
    with suppress(WeightsError, OSError), open(copy, "rb") as file:
        seen = identify(copy, file, always=options.verify == "always")
        compare(copy, seen.sha256, Expectation(record.sha256, "its first use"))
        mapped = _is_safe_to_map(copy) if options.mapped is None else options.mapped
        parsed = _parse(copy, file, seen, options, mapped=mapped, checked=True)
        if seen.was_hashed:
            remember(copy, seen.stat, seen.sha256, origin="optimized")
        return parsed
    return None


def _expectation(path: Path, sha256: str, options: ReadOptions) -> Expectation:
    url = next(
        (
            one
            for one in options.locations
            if one.startswith(("https:", "http:")) and _is_of(path, one)
        ),
        None,
    )
    expected = expectation(path, sha256, url=url)
    if expected.source in ("", "its first use"):
        check_address(path, options.locations, options.name)
    return expected


def _is_of(path: Path, url: str) -> bool:
    return path.parent == checkpoints() and url.partition("?")[0].endswith(f"/{path.name}")


def _read_shards(path: Path, sha256: str, options: ReadOptions) -> WeightsFile:
    """Read the files that an index names, as if they were one."""
    shard_of = read_index(path)
    content: dict[str, Any] = {}
    digest = hashlib.sha256()
    guards: tuple[Guard, ...] = ()
    for name in sorted(set(shard_of.values())):
        shard = read_weights(path.parent / name, options=replace(options, locations=()))
        digest.update(f"{shard.sha256}  {name}\n".encode())
        held = {**plain_state_dict(shard.content), **extra_states(shard.content)}
        # Another shard may hold an old copy of a tensor: the index decides.
        content.update(
            (key, value) for key, value in held.items() if shard_of.get(key, name) == name
        )
        guards += shard.guards
    compare(path, digest.hexdigest(), Expectation(sha256.lower(), "the catalog"), options.name)
    if lost := sorted(shard_of.keys() - content.keys()):
        raise WeightsError(
            f"The files that {path} names lack {len(lost)} of its tensors, such as {lost[0]!r}. "
            "They do not belong to one checkpoint. Get all of them again."
        )
    return WeightsFile(path, digest.hexdigest(), content, guards)
