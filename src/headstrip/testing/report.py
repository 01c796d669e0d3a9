"""Results of checks: passed, failed, skipped or not run, and what the check saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from headstrip.printable import printable

Level = Literal["meta", "once", "real"]
Status = Literal["passed", "failed", "skipped", "not run"]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check of one backbone.

    Attributes:
        backbone: Qualified name, such as ``torchvision:resnet18``.
        check: Name of the check, a key of ``CHECKS``.
        status: ``passed``; ``failed``; ``skipped`` if the check does not apply, such as the shape
            of a head if there is no head; ``not run`` if the object to check could not be made.
            Another check then reports why.
        seen: What the check saw, and after a failure also what it expected.
        seconds: Duration, including objects that later checks share.
    """

    backbone: str
    check: str
    status: Status
    seen: str
    seconds: float

    @property
    def sentence(self) -> str:
        """Backbone, check, and what the check saw, in one line."""
        return f"{self.backbone}: {self.check}: {self.seen}"


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks of one backbone.

    Attributes:
        backbone: Qualified name.
        level: ``real`` for every check; ``once`` for the checks that need no memory and one real
            forward pass; ``meta`` for only the checks that need no memory.
        law: The head fidelity that strip_head states, None if strip_head failed.
        input_shape: Input of the checks without the batch axis, None if strip_head failed.
        results: One result per check, in order.
        unread: Tags of the weights whose files are not on this machine and were not read.
    """

    backbone: str
    level: Level
    law: str | None
    input_shape: tuple[int, ...] | None
    results: tuple[Result, ...]
    unread: tuple[str, ...] = ()

    @property
    def wrong(self) -> tuple[Result, ...]:
        """The checks that failed, and those that could not be run."""
        return tuple(one for one in self.results if one.status in {"failed", "not run"})


class ConformanceError(AssertionError):
    """Backbones failed checks. The message lists every failure.

    Attributes:
        results: The checks that failed or could not be run.
    """

    def __init__(self, results: Iterable[Result]) -> None:
        """Keep the results, and list them in the message."""
        self.results = tuple(results)
        failed = [result for result in self.results if result.status == "failed"]
        other = [result for result in self.results if result.status != "failed"]
        lines = [f"  {result.sentence}" for result in failed]
        lines += [f"  {result.sentence} (not run)" for result in other[: 0 if failed else None]]
        left = f", and {len(other)} checks could not be run" if failed and other else ""
        lines = [printable(line) for line in lines]
        super().__init__(f"{len(failed)} checks failed{left}:\n" + "\n".join(lines))


class CheckFailed(Exception):
    """A check failed. The message says what it saw and what it expected."""


class CheckSkipped(Exception):
    """A check does not apply. The message says why."""


class CheckNotRun(Exception):
    """The object to check could not be made."""
