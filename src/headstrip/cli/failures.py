"""What a command ends with when it cannot do what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from headstrip.errors import HeadstripError, OptionError, UnknownBackboneError, one_line
from headstrip.printable import printable
from headstrip.system.os_errors import explain_exhaustion

PARTLY = 1
"""Exit code: some of the work, or all of it, failed and was reported."""

USAGE = 2
"""Exit code: what was asked for cannot be done as it was put."""

INTERRUPTED = 130
"""Exit code: Ctrl-C, as shells write it."""


class Failure(click.ClickException):
    """A sentence on stderr, and the exit code of work that failed."""

    exit_code = PARTLY

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageFailure(Failure):
    """A sentence on stderr, and the exit code of a command that was not understood."""

    exit_code = USAGE


def failure_of(error: Exception) -> Failure:
    """Turn what the library raised into a sentence and an exit code."""
    if isinstance(error, (UnknownBackboneError, OptionError)):
        return UsageFailure(str(error))
    if isinstance(error, HeadstripError):
        return Failure(str(error))
    if isinstance(error, ValueError):
        return UsageFailure(str(error))
    said = explain_exhaustion(error, "The command ended early")
    if said is not None:
        return Failure(said)
    name = type(error).__name__
    text = name if one_line(error) == name else f"{name}: {one_line(error)}"
    return Failure(f"{text.rstrip('.')}. `headstrip --debug ...` shows where it came from.")


@contextmanager
def printable_usage() -> Iterator[None]:
    """Escape what a terminal would act on in what click says of arguments."""
    try:
        yield
    except click.ClickException as error:
        if not isinstance(error, click.exceptions.NoArgsIsHelpError):
            # click declares it final, and quotes arguments in it as they are.
            vars(error)["message"] = printable(error.message)
        raise
