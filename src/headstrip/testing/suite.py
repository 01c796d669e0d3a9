"""All checks in order, and functions that run them for one backbone or a whole plugin."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from headstrip.errors import PluginError, UnknownBackboneError
from headstrip.factory.measure import completed
from headstrip.registry.registry import get_registry
from headstrip.registry.suggestions import nothing_listed
from headstrip.spec import BackboneSpec
from headstrip.testing import (
    catalog_checks,
    copy_checks,
    forward_checks,
    map_checks,
    weights_checks,
)
from headstrip.testing.pair import Pair
from headstrip.testing.report import (
    CheckFailed,
    CheckNotRun,
    CheckSkipped,
    ConformanceError,
    Level,
    Report,
    Result,
    Status,
)
from headstrip.testing.states import blocked_network, generators_restored
from headstrip.testing.subject import Light, Subject

Check = Callable[[Subject], str]
Real = bool | int

REAL_PARAMS = 30_000_000
"""Default number of parameters up to which a backbone goes through every check."""

META_CHECKS: dict[str, Check] = {
    "listing": catalog_checks.listing,
    "build": catalog_checks.build,
    "catalog": catalog_checks.catalog,
    "width": catalog_checks.width,
    "law": catalog_checks.law,
    "parameters": catalog_checks.parameters,
    "head": catalog_checks.head,
    "weights": weights_checks.weights,
    "loading": weights_checks.loading,
}
"""Checks that need no memory. At the other levels, ``build`` and ``width`` check more."""

REAL_CHECKS: dict[str, Check] = {
    "offline": weights_checks.offline,
    "lossless": forward_checks.lossless,
    "batch": forward_checks.batch,
    "gradient": forward_checks.gradient,
    "maps": map_checks.maps,
    "deepcopy": copy_checks.deepcopy,
    "pickle": copy_checks.pickling,
    "state-dict": copy_checks.state_dict,
    "state": forward_checks.state,
    "repeatable": copy_checks.repeatable,
    "dtype": copy_checks.dtype,
    "num_classes": catalog_checks.classes,
    "input-options": catalog_checks.input_options,
    "sizes": catalog_checks.sizes,
    "preprocessing": weights_checks.preprocessing,
    "describe-file": weights_checks.describe_file,
    "refusal": copy_checks.refusal,
}
"""Further checks, which run the network."""

CHECKS: dict[str, str] = {
    name: (check.__doc__ or "").partition("\n")[0]
    for name, check in {**META_CHECKS, **REAL_CHECKS}.items()
}
"""Every check, and what it requires."""


def verify(qualified_name: str, *, level: Level = "real") -> list[Result]:
    """Check one backbone. The global random number generators do not move.

    Args:
        qualified_name: Name of the backbone, such as ``torchvision:resnet18``. Nothing is
            downloaded.
        level: ``real`` runs every check on the CPU; ``meta`` runs only the checks that need no
            memory; ``once`` runs these and one real forward pass.

    Returns:
        One result per check, in the order of ``CHECKS``.

    Raises:
        UnknownBackboneError: No backbone has the name, or the name has a tag.
        PluginError: The plugin that owns the backbone cannot be used.

    Example:
        >>> results = verify("squeezenet1_1", level="meta")
        >>> [result.check for result in results if result.status == "failed"]
        []
    """
    return list(report_on(spec_of(qualified_name), level).results)


def report_on(spec: BackboneSpec, level: Level) -> Report:
    """Run all checks of a level on one backbone."""
    return report_of(Subject(get_registry(), spec, level))


def report_of(subject: Subject) -> Report:
    """Run all checks of a subject's level; free their shared objects if the backbone is large."""
    level = subject.level
    with _garbage_collection_paused():
        results = tuple(run_check(subject, name) for name in checks_of(level))
    light = subject.made.get("light")
    law = light.stripped.law if isinstance(light, Light) else None
    pair = subject.made.get("pair", light) if level == "real" else light
    shape = pair.shape if isinstance(pair, (Light, Pair)) else None
    # A collection takes as long as the checks, and on the meta device it would free no memory.
    if subject.is_large and subject.holds_memory:
        # Free the networks in reference cycles before the next backbone is built.
        subject.made.clear()
        gc.collect()
    return Report(subject.name, level, law, shape, results, tuple(subject.unread))


def spec_of(name: str) -> BackboneSpec:
    """Resolve the name of a backbone. A name with a tag raises ``UnknownBackboneError``."""
    registry = get_registry()
    spec, parts = registry.resolve(name)
    if parts.tag is not None:
        raise UnknownBackboneError(
            f"{name!r} has the tag {parts.tag!r}, but a backbone is verified with all its weights. "
            f"Pass {spec.qualified_name!r}."
        )
    return completed(spec, registry)


def checks_of(level: Level) -> dict[str, Check]:
    """Return the checks of a level."""
    return {**META_CHECKS, **REAL_CHECKS} if level == "real" else META_CHECKS


def run_check(subject: Subject, name: str) -> Result:
    """Run one check. Any exception of the plugin becomes a failed result with its message."""
    started = time.perf_counter()
    status: Status = "passed"
    with generators_restored(), blocked_network() as calls, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            seen = checks_of("real")[name](subject)
        except CheckSkipped as reason:
            status, seen = "skipped", str(reason)
        except CheckNotRun as reason:
            status, seen = "not run", str(reason)
        except CheckFailed as problem:
            status, seen = "failed", str(problem)
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            status, seen = "failed", f"raised {type(error).__name__}: {text}"
    subject.network_calls += calls
    return Result(subject.name, name, status, seen, time.perf_counter() - started)


def level_of(spec: BackboneSpec, real: Real) -> Level:
    """Return the level at which to check a backbone.

    Args:
        spec: The backbone.
        real: True for every check, False for those that need no memory, or the number of
            parameters up to which a backbone goes through every check.

    Raises:
        ValueError: ``real`` is neither a bool nor a number.
    """
    if not isinstance(real, (int, float)):
        raise ValueError(
            f"real={real!r} is neither a bool nor a number. Pass True, False, or the number of "
            "parameters up to which backbones are run for real."
        )
    if isinstance(real, bool):
        return "real" if real else "meta"
    return "real" if spec.params <= real else "once"


def choose(name: str, backbones: Collection[str] | None) -> list[BackboneSpec]:
    """Return the backbones of a plugin, or those that match names or patterns.

    Raises:
        PluginError: The plugin lists no backbones, or a pattern matches none of them.
    """
    registry = get_registry()
    specs = [spec for spec in registry.specs() if name in {spec.source, spec.plugin}]
    if not specs:
        raise PluginError(_no_plugin(name))
    if backbones is None:
        return [completed(spec, registry) for spec in specs]
    patterns = [backbones] if isinstance(backbones, str) else list(backbones)
    if not patterns:
        raise PluginError(
            f"backbones={backbones!r} is empty. Leave it out to check all backbones of {name!r}."
        )
    for pattern in patterns:
        if not any(_matches(spec, pattern) for spec in specs):
            raise PluginError(
                f"No backbone of {name!r} matches {pattern!r}. Run `headstrip list '{name}:*'` to "
                "see them."
            )
    chosen = [spec for spec in specs if any(_matches(spec, pattern) for pattern in patterns)]
    return [completed(spec, registry) for spec in chosen]


def _no_plugin(name: str) -> str:
    """Explain why a plugin lists no backbones, or that the name is that of a backbone."""
    registry = get_registry()
    problem = f"There is no plugin {name!r} that lists backbones"
    source, colon, backbone = name.partition(":")
    if colon and any(source in {spec.source, spec.plugin} for spec in registry.specs()):
        return f"{problem}. Pass the plugin {source!r}, and backbones={[backbone]!r}."
    reason = nothing_listed(name, registry.records())
    return f"{problem}{f' ({reason})' if reason else ''}. Run `headstrip plugins` to list plugins."


def _matches(spec: BackboneSpec, pattern: str) -> bool:
    return fnmatchcase(spec.name, pattern) or fnmatchcase(spec.qualified_name, pattern)


def check_plugin(
    name: str, *, backbones: Collection[str] | None = None, real: Real = REAL_PARAMS
) -> None:
    """Assert that the backbones of a plugin pass all checks.

    Args:
        name: The plugin, or the source, whose backbones to check.
        backbones: Names or shell patterns of the backbones to check. Default: all.
        real: Number of parameters up to which a backbone goes through every check; larger ones go
            through the checks that need no memory and one real forward pass. True: every check
            for all. False: no real forward pass for any.

    Raises:
        ConformanceError: Checks failed; the message lists them all.
        PluginError: There are no such backbones.
        ValueError: ``real`` is neither a bool nor a number.

    Example:
        >>> check_plugin("torchvision", backbones=["squeezenet*"], real=False)
    """
    wrong = [
        result
        for spec in choose(name, backbones)
        for result in report_on(spec, level_of(spec, real)).wrong
    ]
    if wrong:
        raise ConformanceError(wrong)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the garbage collector, which takes as long as building a large network."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
