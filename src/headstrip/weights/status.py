"""What names, sizes and records say of weights files; not one is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headstrip.weights.caches import Stored
from headstrip.weights.trust import Expectation, Record, expectation, recorded

State = Literal["verified", "not verified", "changed", "wrong", "lost"]

_WORST_FIRST = ("wrong", "lost", "changed", "not verified", "verified")


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a stored file without reading it.

    Attributes:
        state: ``verified`` when its bytes were those expected and nothing changed since;
            ``changed`` when they were and the file did; ``wrong`` when they were others.
        size: Bytes of all its files.
        sha256: Its hash, whole or the first digits, empty when nothing is known.
        said_by: Who says it.
        when: Time of the last verification, empty without one.
    """

    state: State
    size: int
    sha256: str
    said_by: str
    when: str


def status_of_copy(copy: Path) -> Status:
    """Say what is known of a converted file."""
    return _status_of(copy, expectation(copy, url=None))


def status(stored: Stored) -> Status:
    """Say what is known of a stored file without reading it."""
    files = stored.files()
    each = [_status_of(file, stored.expected(file)) for file in files]
    worst = min(each, key=lambda one: _WORST_FIRST.index(one.state))
    if len(each) == 1:
        return worst
    size = sum(one.size for one in each)
    return Status(worst.state, size, stored.entry.sha256, worst.said_by, worst.when)


def _status_of(file: Path, expected: Expectation) -> Status:
    try:
        stat = os.stat(file)
    except OSError:
        return Status("lost", 0, expected.sha256, expected.said_by, "")
    record = recorded(file)
    state = _state(stat, record, expected)
    if record is None or state == "changed":
        said, by = expected.sha256, expected.said_by
    else:
        said, by = record.sha256, expected.said_by or "its first use"
    return Status(state, stat.st_size, said, by, record.when if record else "")


def _state(stat: os.stat_result, record: Record | None, expected: Expectation) -> State:
    if record is None:
        return "not verified"
    if not record.describes(stat):
        return "changed"
    return "verified" if record.sha256.startswith(expected.sha256) else "wrong"
