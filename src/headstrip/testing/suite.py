"""All checks in their order, and how they are run: one backbone, or all of a plugin."""

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
from headstrip.testing import claims, copies, files, proof, tables, training
from headstrip.testing.pair import Pair
from headstrip.testing.report import (
    Broken,
    ConformanceError,
    Level,
    NotRun,
    Report,
    Result,
    Skipped,
    Status,
)
from headstrip.testing.states import blocked_network, generators_kept
from headstrip.testing.subject import Light, Subject

Check = Callable[[Subject], str]
Real = bool | int

REAL_PARAMS = 30_000_000
"""Parameters up to which a backbone is checked for real where nobody says otherwise."""

META_CHECKS: dict[str, Check] = {
    "listing": claims.listing,
    "build": claims.build,
    "catalog": claims.catalog,
    "width": claims.width,
    "law": claims.law,
    "parameters": claims.parameters,
    "head": claims.head,
    "weights": tables.weights,
    "loading": files.loading,
}
"""The checks that take no memory; ``build`` and ``width`` look at more at the other levels."""

REAL_CHECKS: dict[str, Check] = {
    "offline": tables.offline,
    "lossless": proof.lossless,
    "batch": proof.batch,
    "gradient": training.gradient,
    "deepcopy": copies.deepcopy,
    "pickle": copies.pickling,
    "state-dict": copies.state_dict,
    "state": proof.state,
    "repeatable": copies.repeatable,
    "dtype": copies.dtype,
    "num_classes": claims.classes,
    "preprocessing": tables.preprocessing,
    "describe-file": tables.describe_file,
    "refusal": copies.refusal,
}
"""The checks that run the network, besides."""

CHECKS: dict[str, str] = {
    name: (check.__doc__ or "").partition("\n")[0]
    for name, check in {**META_CHECKS, **REAL_CHECKS}.items()
}
"""Every check, and what it demands."""


def verify(qualified_name: str, *, level: Level = "real") -> list[Result]:
    """Check one backbone; the global random number generators do not move.

    Args:
        qualified_name: Its name, such as ``torchvision:resnet18``; nothing is downloaded.
        level: ``real`` for every check, on the CPU; ``meta`` for those that take no memory;
            ``once`` for those and one real forward.

    Returns:
        A result a check, in their order.

    Raises:
        UnknownBackboneError: The name is nobody's, or has a tag.
        PluginError: The plugin that owns it cannot be used.

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
    """Run all checks of a subject's level; what they share stays with it, unless it is large."""
    level = subject.level
    with _collector_held():
        results = tuple(run_check(subject, name) for name in checks_of(level))
    light = subject.made.get("light")
    law = light.stripped.law if isinstance(light, Light) else None
    pair = subject.made.get("pair", light) if level == "real" else light
    shape = pair.shape if isinstance(pair, (Light, Pair)) else None
    # Without memory there is nothing to give back, and collecting takes as long as the checks.
    if subject.is_large and subject.holds_memory:
        # What a cycle holds would stay for the next one to come on top.
        subject.made.clear()
        gc.collect()
    return Report(subject.name, level, law, shape, results, tuple(subject.unread))


def spec_of(name: str) -> BackboneSpec:
    """Resolve the name of a backbone; raises ``UnknownBackboneError`` also where it has a tag."""
    registry = get_registry()
    spec, parts = registry.resolve(name)
    if parts.tag is not None:
        raise UnknownBackboneError(
            f"{name!r} has the tag {parts.tag!r}, and a backbone is verified with all its weights. "
            f"Name it {spec.qualified_name!r}."
        )
    return completed(spec, registry)


def checks_of(level: Level) -> dict[str, Check]:
    """Return the checks of a level."""
    return {**META_CHECKS, **REAL_CHECKS} if level == "real" else META_CHECKS


def run_check(subject: Subject, name: str) -> Result:
    """Run one check; whatever the plugin raises is a failure with a sentence."""
    started = time.perf_counter()
    status: Status = "passed"
    with generators_kept(), blocked_network() as tried, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            seen = checks_of("real")[name](subject)
        except Skipped as reason:
            status, seen = "skipped", str(reason)
        except NotRun as reason:
            status, seen = "not run", str(reason)
        except Broken as problem:
            status, seen = "failed", str(problem)
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            status, seen = "failed", f"raised {type(error).__name__}: {text}"
    subject.tried += tried
    return Result(subject.name, name, status, seen, time.perf_counter() - started)


def level_of(spec: BackboneSpec, real: Real) -> Level:
    """Return the level at which a backbone is checked.

    Args:
        spec: The backbone.
        real: True for real, False without memory, a number for real up to so many parameters and
            one real forward above.

    Raises:
        ValueError: It is none of these.
    """
    if not isinstance(real, (int, float)):
        raise ValueError(
            f"real={real!r} is a {type(real).__name__}. Pass True, False, or the number of "
            "parameters up to which backbones are run for real."
        )
    if isinstance(real, bool):
        return "real" if real else "meta"
    return "real" if spec.params <= real else "once"


def choose(name: str, backbones: Collection[str] | None) -> list[BackboneSpec]:
    """Return the backbones of a plugin, or those of them that some names or patterns mean.

    Raises:
        PluginError: The plugin lists none, or a pattern means none of them.
    """
    registry = get_registry()
    specs = [spec for spec in registry.specs() if name in {spec.source, spec.plugin}]
    if not specs:
        raise PluginError(_no_plugin(name))
    if backbones is None:
        return [completed(spec, registry) for spec in specs]
    patterns = [backbones] if isinstance(backbones, str) else list(backbones)
    if not patterns:
        raise PluginError(f"backbones={backbones!r} names none of {name!r}. Leave it out for all.")
    for pattern in patterns:
        if not any(_means(spec, pattern) for spec in specs):
            raise PluginError(
                f"No backbone of {name!r} is {pattern!r}. `headstrip list '{name}:*'` prints them."
            )
    chosen = [spec for spec in specs if any(_means(spec, pattern) for pattern in patterns)]
    return [completed(spec, registry) for spec in chosen]


def _no_plugin(name: str) -> str:
    """Say why a plugin lists nothing, or that a backbone was named instead of one."""
    registry = get_registry()
    said = f"There is no plugin {name!r} that lists backbones"
    source, colon, backbone = name.partition(":")
    if colon and any(source in {spec.source, spec.plugin} for spec in registry.specs()):
        return f"{said}. Name the plugin {source!r}, and backbones={[backbone]!r}."
    reason = nothing_listed(name, registry.records())
    return f"{said}{f' ({reason})' if reason else ''}. `headstrip plugins` says what is installed."


def _means(spec: BackboneSpec, pattern: str) -> bool:
    return fnmatchcase(spec.name, pattern) or fnmatchcase(spec.qualified_name, pattern)


def check_plugin(
    name: str, *, backbones: Collection[str] | None = None, real: Real = REAL_PARAMS
) -> None:
    """Assert that the backbones of a plugin keep the contract.

    Args:
        name: The plugin, or the source, whose backbones are checked.
        backbones: Names or shell patterns of those that are, by default all.
        real: Those with at most so many parameters run through every check; of the others, the
            checks that take no memory and one real forward. True: all of them run through every
            check. False: nothing runs for real.

    Raises:
        ConformanceError: Checks failed; the message lists them all.
        PluginError: There are no such backbones.
        ValueError: ``real`` is neither a truth value nor a number.

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
def _collector_held() -> Iterator[None]:
    """Hold the garbage collector back: it takes as long as building a network of many modules."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
