"""The kit as a decorator for pytest: a test for each backbone and check."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headstrip.registry.registry import Registry, get_registry
from headstrip.testing.report import ConformanceError, Level
from headstrip.testing.subject import Subject
from headstrip.testing.suite import (
    REAL_PARAMS,
    Real,
    checks_of,
    choose,
    level_of,
    run_check,
    spec_of,
)

_Test = TypeVar("_Test", bound=Callable[..., Any])


@dataclass
class Bench:
    """Holds the one subject that tests are looking at, so that they share what it made."""

    key: tuple[Registry, str, Level] | None = None
    subject: Subject | None = field(default=None, repr=False)

    def take(self, name: str, level: Level) -> Subject:
        """Return the subject of a backbone; that of another one is let go."""
        key = (get_registry(), name, level)
        if self.subject is None or self.key != key:
            self.key, self.subject = key, Subject(get_registry(), spec_of(name), level)
        return self.subject


_bench = Bench()


@dataclass(frozen=True)
class BoundCheck:
    """One check of one backbone; calling it runs it."""

    backbone: str
    check: str
    level: Level

    def __call__(self) -> None:
        """Run the check.

        Raises:
            ConformanceError: It failed, or could not be run.
        """
        import pytest

        __tracebackhide__ = True
        result = run_check(_bench.take(self.backbone, self.level), self.check)
        if result.status == "skipped":
            pytest.skip(result.sentence)
        if result.status != "passed":
            raise ConformanceError([result])


def parametrize_with_backbones(
    name: str, *, backbones: Collection[str] | None = None, real: Real = REAL_PARAMS
) -> Callable[[_Test], _Test]:
    """Give a test the parameter ``check``, one for each backbone of a plugin and each check.

    The test calls ``check()``, which raises ``ConformanceError``. Its id is that of the backbone
    and the check, ``mylab:tiny-lossless``, so that ``pytest -k lossless`` picks some of them. The
    checks of one backbone share what they build; with pytest-xdist, ``--dist loadfile`` keeps
    them together.

    Args:
        name: The plugin, or the source, whose backbones are checked.
        backbones: Names or shell patterns of those that are, by default all.
        real: Those with at most so many parameters run through every check; of the others, the
            checks that take no memory and one real forward. True: all of them run through every
            check. False: nothing runs for real.

    Raises:
        PluginError: There are no such backbones.
        ValueError: ``real`` is neither a truth value nor a number.
    """
    import pytest

    parameters = [
        pytest.param(
            BoundCheck(spec.qualified_name, check, level),
            id=f"{spec.qualified_name}-{check}",
        )
        for spec in choose(name, backbones)
        for level in (level_of(spec, real),)
        for check in checks_of(level)
    ]
    decorate: Callable[[_Test], _Test] = pytest.mark.parametrize("check", parameters)
    return decorate
