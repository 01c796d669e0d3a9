"""What a check says: passed, failed, skipped or not run, and what was seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from headstrip.printable import printable

Level = Literal["meta", "once", "real"]
Status = Literal["passed", "failed", "skipped", "not run"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one check of one backbone came to.

    Attributes:
        backbone: Qualified name, such as ``torchvision:resnet18``.
        check: Name of the check, a key of ``CHECKS``.
        status: ``passed``; ``failed``; ``skipped`` where the check has no object here, the head's
            shape of a backbone without a head for example; ``not run`` where what it looks at
            could not be made, which another check has told.
        seen: What was seen; where it failed, what was expected too.
        seconds: How long it took, what it made for the checks after it included.
    """

    backbone: str
    check: str
    status: Status
    seen: str
    seconds: float

    @property
    def sentence(self) -> str:
        """Backbone, check, and what was seen, in one line."""
        return f"{self.backbone}: {self.check}: {self.seen}"


@dataclass(frozen=True, slots=True)
class Report:
    """What all checks of one backbone came to.

    Attributes:
        backbone: Qualified name.
        level: ``real`` for every check; ``once`` for the checks that take no memory and one real
            forward; ``meta`` without it.
        law: The law that strip_head states, None where it did not come so far.
        input_shape: Input of the comparisons without the batch axis, None likewise.
        results: One a check, in their order.
        unread: Tags of the weights whose files were not read, because they are not on this machine.
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
    """Backbones that do not keep the contract; the message lists every failure.

    Attributes:
        results: The failures, and the checks that could not be run.
    """

    def __init__(self, results: Iterable[Result]) -> None:
        """Keep the results, and list them."""
        self.results = tuple(results)
        failed = [result for result in self.results if result.status == "failed"]
        other = [result for result in self.results if result.status != "failed"]
        lines = [f"  {result.sentence}" for result in failed]
        lines += [f"  {result.sentence} (not run)" for result in other[: 0 if failed else None]]
        left = f", and {len(other)} checks could not be run" if failed and other else ""
        lines = [printable(line) for line in lines]
        super().__init__(f"{len(failed)} checks failed{left}:\n" + "\n".join(lines))


class Broken(Exception):
    """A check failed; the message says what was seen and what was expected."""


class Skipped(Exception):
    """A check has no object here; the message says why."""


class NotRun(Exception):
    """What a check looks at could not be made."""
