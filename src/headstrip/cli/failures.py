"""Exit codes and error messages of commands that fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from headstrip.errors import (
    HeadstripError,
    LevelError,
    OptionError,
    UnknownBackboneError,
    one_line,
)
from headstrip.printable import printable
from headstrip.system.os_errors import explain_exhaustion

PARTLY = 1
"""Exit code: some or all of the work failed, and the command printed why."""

USAGE = 2
"""Exit code: the arguments are wrong."""

INTERRUPTED = 130
"""Exit code: the user pressed Ctrl-C; shells use the same number."""


class Failure(click.ClickException):
    """An error message on stderr, with the exit code for work that failed."""

    exit_code = PARTLY

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageFailure(Failure):
    """An error message on stderr, with the exit code for wrong arguments."""

    exit_code = USAGE


def failure_of(error: Exception) -> Failure:
    """Turn an exception of the library into an error message and an exit code."""
    if isinstance(error, (UnknownBackboneError, OptionError, LevelError)):
        return UsageFailure(str(error))
    if isinstance(error, HeadstripError):
        return Failure(str(error))
    if isinstance(error, ValueError):
        return UsageFailure(str(error))
    explanation = explain_exhaustion(error, "The command ended early")
    if explanation is not None:
        return Failure(explanation)
    name = type(error).__name__
    text = name if one_line(error) == name else f"{name}: {one_line(error)}"
    return Failure(f"{text.rstrip('.')}. Run `headstrip --debug ...` to see where it came from.")


@contextmanager
def printable_usage() -> Iterator[None]:
    """Escape control characters in the errors that click raises about arguments."""
    try:
        yield
    except click.ClickException as error:
        if not isinstance(error, click.exceptions.NoArgsIsHelpError):
            # click declares `message` final, and quotes the arguments in it unescaped.
            vars(error)["message"] = printable(error.message)
        raise
