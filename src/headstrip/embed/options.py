"""What a run does besides computing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headstrip.errors import HeadstripError


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What a run does besides computing.

    Attributes:
        workers: Processes that decode; 0 decodes in this one, None is one a core.
        lanes: Batches that are in the network at once, None for as many as the cores run.
        overwrite: Whether a file that is there is begun anew.
        retry_failed: Whether the bad images of an earlier run are tried again.
        checksum: Whether the bytes of a file tell if it changed, not its size and time.
        exact: Whether other versions, or another machine, than those of the rows that are there
            are refused.
        max_errors: Bad images after which the run ends, None for any number.
        timeout: Seconds that the decoding of an image may take.
        pages: "first" embeds the first page of a TIFF, or frame of an animation; "all" gives each
            page a row of its own, named ``a.tif#1``, ``a.tif#2`` and so on.
    """

    workers: int | None = None
    lanes: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    checksum: bool = False
    exact: bool = False
    max_errors: int | None = None
    timeout: float = 60.0
    pages: str = "first"

    def __post_init__(self) -> None:
        """Refuse what nothing can be run with.

        Raises:
            ValueError: A number is none, or too small.
        """
        for name, least in (("workers", 0), ("lanes", 1), ("max_errors", 0)):
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_whole and value >= least):
                raise ValueError(
                    f"{name}={value!r} cannot be. Pass a whole number of {least} or more, or None."
                )
        for name in ("overwrite", "retry_failed", "checksum", "exact"):
            if getattr(self, name) not in (True, False):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is no truth value. Pass True or False."
                )
        if self.pages not in ("first", "all"):
            raise ValueError(f"pages={self.pages!r} is unknown. Pass 'first' or 'all'.")
        is_number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if not (is_number and 0 < self.timeout < math.inf):
            raise ValueError(
                f"timeout={self.timeout!r} is no time. Pass a number of seconds above 0."
            )


Options = EmbedOptions
"""Its short name in this package."""


def check_errors(bad: int, limit: int | None, example: str) -> None:
    """Refuse to go on with more bad images than are allowed.

    Args:
        bad: How many there are.
        limit: How many are allowed, None for any number.
        example: One of them, and its reason.

    Raises:
        HeadstripError: There are more.
    """
    if limit is not None and bad > limit:
        raise HeadstripError(
            f"{bad} images could not be embedded, and max_errors is {limit}; one is {example} "
            "What is done is kept: mend them and run it again, or allow more."
        )
