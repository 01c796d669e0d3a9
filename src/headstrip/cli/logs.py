"""What headstrip logs, printed on stderr where somebody asks for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from headstrip.cli.failures import UsageFailure
from headstrip.cli.output import warn_lines
from headstrip.printable import printable

VARIABLE = "HEADSTRIP_LOG"
_LEVELS = {"warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


@contextmanager
def logs_printed(verbose: int) -> Iterator[None]:
    """Print meanwhile what is logged, from a level on.

    Args:
        verbose: How often ``-v`` was given: once for decisions, twice for details. Without it,
            ``HEADSTRIP_LOG`` may name the level.

    Raises:
        UsageFailure: It names another.
    """
    name = os.environ.get(VARIABLE, "").lower() or "warning"
    if name not in _LEVELS:
        raise UsageFailure(
            f"{VARIABLE}={os.environ[VARIABLE]!r} is not a level. Use one of {', '.join(_LEVELS)}."
        )
    asked = {0: _LEVELS[name], 1: min(logging.INFO, _LEVELS[name])}
    logger, handler = logging.getLogger("headstrip"), _OnStderr()
    before = logger.level
    logger.setLevel(asked.get(verbose, logging.DEBUG))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _OnStderr(logging.Handler):
    """Prints each record as lines, with what a terminal would act on escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        try:
            text = f"{record.name}: {printable(record.getMessage())}"
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            warn_lines(text)
        except Exception:
            self.handleError(record)
