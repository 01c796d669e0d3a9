"""What a command ends with when it cannot do what was asked."""

from __future__ import annotations

import click

from headstrip.errors import HeadstripError, OptionError, UnknownBackboneError
from headstrip.system_errors import explain_exhaustion

PARTLY = 1
"""Exit code: some of the work, or all of it, failed and was reported."""

USAGE = 2
"""Exit code: what was asked for cannot be done as it was put."""

INTERRUPTED = 130
"""Exit code: Ctrl-C, as shells write it."""


class Failure(click.ClickException):
    """A sentence on stderr, and the exit code of work that failed."""

    exit_code = PARTLY


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
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Failure(f"{text.rstrip('.')}. `headstrip --debug ...` shows where it came from.")
