"""A pytest decorator that makes one test for each backbone and check."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
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


@lru_cache(maxsize=1)
def _subject(registry: Registry, name: str, level: Level) -> Subject:
    """Return the subject of a backbone. Consecutive tests share it, and the networks in it."""
    return Subject(registry, spec_of(name), level)


@dataclass(frozen=True)
class BoundCheck:
    """One check of one backbone. Call it to run the check."""

    backbone: str
    check: str
    level: Level

    def __call__(self) -> None:
        """Run the check.

        Raises:
            ConformanceError: The check failed, or could not be run.
        """
        import pytest

        __tracebackhide__ = True
        result = run_check(_subject(get_registry(), self.backbone, self.level), self.check)
        if result.status == "skipped":
            pytest.skip(result.sentence)
        if result.status != "passed":
            raise ConformanceError([result])


def parametrize_with_backbones(
    name: str, *, backbones: Collection[str] | None = None, real: Real = REAL_PARAMS
) -> Callable[[_Test], _Test]:
    """Parametrize a test with ``check``: one test for each backbone of a plugin and each check.

    The test calls ``check()``, which raises ``ConformanceError`` if the check fails. Test ids
    consist of backbone and check, such as ``mylab:tiny-lossless``, so ``pytest -k lossless`` runs
    one check. The checks of one backbone share what they build; with pytest-xdist, pass
    ``--dist loadfile`` to keep them in one process.

    Args:
        name: The plugin, or the source, whose backbones to check.
        backbones: Names or shell patterns of the backbones to check. Default: all.
        real: As for ``check_plugin``.

    Raises:
        PluginError: There are no such backbones.
        ValueError: ``real`` is neither a bool nor a number.

    Example:
        >>> @parametrize_with_backbones("torchvision", backbones=["squeezenet1_1"])
        ... def test_the_contract(check):
        ...     check()
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
