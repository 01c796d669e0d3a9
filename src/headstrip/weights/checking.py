"""What is known of weights weights files, and every byte of them compared with what it must be."""

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
from headstrip.weights.trust import Expectation, compare, expectation, hash_of, origin_of

Outcome = Literal["ok", "recorded", "wrong"]
State = Literal["verified", "not verified", "changed", "wrong", "lost"]

_WORST_FIRST = ("wrong", "lost", "changed", "not verified", "verified")

_WHOLE = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading a file showed.

    Attributes:
        path: The file.
        outcome: ``ok``, ``wrong``, or ``recorded`` where no source says which bytes it must have:
            those that it has are recorded now.
        sha256: What it is, empty where it cannot be read.
        expected: What it must be.
        problem: What is wrong, and what to do.
    """

    path: Path
    outcome: Outcome
    sha256: str
    expected: Expectation
    problem: str = ""


def check_weights(weights: WeightsLocation) -> list[Verdict]:
    """Read all files of a set of weights, and record what they are."""
    name, origin = weights.name, weights.origin
    verdicts = [_check(file, weights.expected(file), name, origin) for file in weights.files()]
    if is_index(weights.path):
        verdicts.append(_check_index(weights, verdicts))
    return verdicts


def check_path(path: Path) -> Verdict:
    """Read a file that no catalog names, and record what it is."""
    return _check(path, expectation(path, url=None), "", origin_of(path))


def _check(path: Path, expected: Expectation, name: str, origin: str) -> Verdict:
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            found = hash_of(file)
    except OSError as error:
        problem = f"The weights file {path} cannot be read ({one_line(error)}). {_again(name)}"
        return Verdict(path, "wrong", "", expected, problem)
    try:
        compare(path, found, _strictest(path, stat, expected), name)
    except WeightsError as error:
        return Verdict(path, "wrong", found, expected, str(error))
    remember(path, stat, found, origin=origin)
    return Verdict(path, "ok" if expected.sha256 else "recorded", found, expected)


def _strictest(path: Path, stat: os.stat_result, expected: Expectation) -> Expectation:
    """Expect the recorded hash of a file with these times, where a source says only some digits."""
    record = recorded(path)
    if record is None or not record.describes(stat) or len(expected.sha256) == _WHOLE:
        return expected
    if not record.sha256.startswith(expected.sha256):
        return expected
    return Expectation(record.sha256, "the record of a file with the same times and size")


def _check_index(weights: WeightsLocation, shards: list[Verdict]) -> Verdict:
    """Compare the whole of a checkpoint in several files, and what its index names."""
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


def _again(name: str) -> str:
    return f"Run `headstrip weights repair {name}`." if name else "Check the path."


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a weights file without reading it.

    Attributes:
        state: ``verified`` when its bytes were those expected and nothing changed since;
            ``changed`` when they were and the file did; ``wrong`` when they were others.
        size: Bytes of all its files.
        sha256: Its hash, whole or the first digits, empty when nothing is known.
        source: Who says it.
        when: Time of the last verification, empty without one.
    """

    state: State
    size: int
    sha256: str
    source: str
    when: str


def status_of_copy(copy: Path) -> Status:
    """Say what is known of a converted file."""
    return _status_of(copy, expectation(copy, url=None))


def status(weights: WeightsLocation) -> Status:
    """Say what is known of a weights file without reading it."""
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
        said, by = expected.sha256, expected.source
    else:
        said, by = record.sha256, expected.source or "its first use"
    return Status(state, stat.st_size, said, by, record.when if record else "")


def _state(stat: os.stat_result, record: Record | None, expected: Expectation) -> State:
    if record is None:
        return "not verified"
    if not record.describes(stat):
        return "changed"
    return "verified" if record.sha256.startswith(expected.sha256) else "wrong"
