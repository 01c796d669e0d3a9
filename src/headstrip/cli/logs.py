"""Print headstrip's log records on stderr, for ``-v`` and ``HEADSTRIP_LOG``."""

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
    """Print log records on stderr while the body runs.

    Args:
        verbose: Number of ``-v`` options: 1 prints decisions (INFO), 2 prints details (DEBUG), 0
            uses the level in the environment variable ``HEADSTRIP_LOG``.

    Raises:
        UsageFailure: ``HEADSTRIP_LOG`` is not the name of a level.
    """
    name = os.environ.get(VARIABLE, "").lower() or "warning"
    if name not in _LEVELS:
        raise UsageFailure(
            f"{VARIABLE}={os.environ[VARIABLE]!r} is not a log level. Use one of "
            f"{', '.join(_LEVELS)}."
        )
    levels = {0: _LEVELS[name], 1: min(logging.INFO, _LEVELS[name])}
    logger, handler = logging.getLogger("headstrip"), _OnStderr()
    before = logger.level
    logger.setLevel(levels.get(verbose, logging.DEBUG))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _OnStderr(logging.Handler):
    """Prints each record, with control characters escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            text = f"{record.name}: {printable(record.getMessage())}"
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            warn_lines(text)
        except Exception:
            self.handleError(record)
