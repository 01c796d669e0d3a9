"""Verify weights files, and report the state of files without reading them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstrip.errors import WeightsError, one_line
from headstrip.weights.caches import WeightsLocation
from headstrip.weights.records import Record, recorded, remember
from headstrip.weights.sharded_checkpoint import is_index, read_index
from headstrip.weights.trust import FIRST_USE, Expectation, compare, expectation, hash_of, origin_of

Outcome = Literal["ok", "recorded", "wrong"]
State = Literal["verified", "not verified", "changed", "wrong", "lost"]

_WORST_FIRST = ("wrong", "lost", "changed", "not verified", "verified")

_WHOLE = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of verifying a file.

    Attributes:
        path: The file.
        outcome: ``ok``; ``wrong``; or ``recorded`` if no source has an expected sha256, and
            headstrip recorded the sha256 that the file has now.
        sha256: The sha256 of the file, or "" if headstrip cannot read the file.
        expected: The expected sha256 and its source.
        problem: What is wrong and what to do, or "".
    """

    path: Path
    outcome: Outcome
    sha256: str
    expected: Expectation
    problem: str = ""


def check_weights(weights: WeightsLocation) -> list[Verdict]:
    """Read every byte of a set of weights, and record the sha256 of each right file."""
    name, origin = weights.name, weights.origin
    verdicts = [_check(file, weights.expected(file), name, origin) for file in weights.files()]
    if is_index(weights.path):
        verdicts.append(_check_index(weights, verdicts))
    return verdicts


def check_path(path: Path) -> Verdict:
    """Read every byte of a file that is not in a catalog, and record its sha256 if it is right."""
    return _check(path, expectation(path, url=None), "", origin_of(path))


def _check(path: Path, expected: Expectation, name: str, origin: str) -> Verdict:
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            found = hash_of(file)
    except OSError as error:
        remedy = f"Run `headstrip weights repair {name}`." if name else "Check the path."
        problem = f"headstrip cannot read the weights file {path} ({one_line(error)}). {remedy}"
        return Verdict(path, "wrong", "", expected, problem)
    try:
        compare(path, found, _strictest(path, stat, expected), name)
    except WeightsError as error:
        return Verdict(path, "wrong", found, expected, str(error))
    remember(path, stat, found, origin=origin)
    return Verdict(path, "ok" if expected.sha256 else "recorded", found, expected)


def _strictest(path: Path, stat: os.stat_result, expected: Expectation) -> Expectation:
    """Return the recorded sha256 of an unchanged file if the expected one has only some digits."""
    record = recorded(path)
    if record is None or not record.describes(stat) or len(expected.sha256) == _WHOLE:
        return expected
    if not record.sha256.startswith(expected.sha256):
        return expected
    return Expectation(record.sha256, "the record of a file with the same times and size")


def _check_index(weights: WeightsLocation, shards: list[Verdict]) -> Verdict:
    """Verify a checkpoint in several files as a whole, and its index."""
    path, expected = weights.path, Expectation(weights.entry.sha256.lower(), "the catalog")
    lines = [f"{one.sha256}  {one.path.name}\n" for one in shards]
    found = hashlib.sha256("".join(lines).encode()).hexdigest()
    try:
        read_index(path)
        if weights.entry.sha256:
            compare(path, found, expected, weights.name)
    except WeightsError as error:
        return Verdict(path, "wrong", found, expected, str(error))
    return _check(path, expectation(path, url=None), weights.name, weights.origin)


@dataclass(frozen=True, slots=True)
class Status:
    """What headstrip knows about a file without reading it.

    Attributes:
        state: ``verified`` if headstrip hashed the file, the hash is not wrong, and the file did
            not change since; ``not verified`` if headstrip did not hash it yet; ``changed`` if the
            file changed since headstrip hashed it; ``wrong`` if the recorded sha256 is not the
            expected one; ``lost`` if the file is missing, such as one that an index names.
        size: The size in bytes, summed over the files of a checkpoint in several files.
        sha256: The sha256, or its first digits, or "" if it is unknown.
        source: The source of the sha256, such as ``the catalog``.
        when: The time of the last verification, or "".
    """

    state: State
    size: int
    sha256: str
    source: str
    when: str


def status_of_copy(copy: Path) -> Status:
    """Return the status of an optimized copy."""
    return _status_of(copy, expectation(copy, url=None))


def status(weights: WeightsLocation) -> Status:
    """Return the status of a set of weights without reading its files."""
    files = weights.files()
    each = [_status_of(file, weights.expected(file)) for file in files]
    worst = min(each, key=lambda one: _WORST_FIRST.index(one.state))
    if len(each) == 1:
        return worst
    size = sum(one.size for one in each)
    return Status(worst.state, size, weights.entry.sha256, worst.source, worst.when)


def _status_of(file: Path, expected: Expectation) -> Status:
    try:
        stat = os.stat(file)
    except OSError:
        return Status("lost", 0, expected.sha256, expected.source, "")
    record = recorded(file)
    state = _state(stat, record, expected)
    if record is None or state == "changed":
        sha256, source = expected.sha256, expected.source
    else:
        sha256, source = record.sha256, expected.source or FIRST_USE
    return Status(state, stat.st_size, sha256, source, record.when if record else "")


def _state(stat: os.stat_result, record: Record | None, expected: Expectation) -> State:
    if record is None:
        return "not verified"
    if not record.describes(stat):
        return "changed"
    return "verified" if record.sha256.startswith(expected.sha256) else "wrong"
