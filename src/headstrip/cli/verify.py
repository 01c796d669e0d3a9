"""``headstrip verify``: check backbones with the conformance kit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import complete_backbone, open_registry
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line, short_count
from headstrip.registry.catalog import format_shape
from headstrip.registry.registry import Registry
from headstrip.registry.suggestions import nothing_listed
from headstrip.spec import BackboneSpec, is_folder

if TYPE_CHECKING:
    from headstrip.testing.report import Level, Report

_WILDCARDS = frozenset("*?[")


@click.command(name="verify")
@click.argument("pattern", metavar="NAME|PATTERN", shell_complete=complete_backbone)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Run every check on every backbone that matches, however large it is.",
)
@click.option("--meta", "light", is_flag=True, help="Run only the checks that need no memory.")
@json_option
@click.pass_context
def command(
    context: click.Context, pattern: str, everything: bool, light: bool, as_json: bool
) -> None:
    """Check that backbones work as headstrip promises.

    NAME is one backbone: headstrip builds it with random weights and runs every check on the CPU.
    For a folder that encoder.save wrote, such as cells/, headstrip builds its encoder instead, and
    checks that it has the fingerprint of the encoder that was saved.

    PATTERN is a shell pattern such as 'timm:vit_*' or 'mylab:*'. Backbones with up to 30M
    parameters go through every check (real). Larger ones go through the checks that need no
    memory, and one real forward pass (once). With --meta no backbone runs a forward pass (meta).

    headstrip loads weights files that are on this machine, and downloads nothing.

    The command prints one line per backbone: its name, its head fidelity (exact, rounding, declared
    or headless), the input size, how it was checked (real, once or meta), and how many checks
    passed or what went wrong. 'weights not read' means that some of its weights files are not on
    this machine.
    """
    if everything and light:
        raise UsageFailure("--all and --meta cannot be used together. Leave one of them out.")
    registry = open_registry(context)
    if is_folder(pattern):
        _verify_folder(pattern, as_json)
        return
    with plugins_on_stderr():
        specs = _chosen(registry, pattern)
    real: bool | None = True if everything or not _is_pattern(pattern) else None
    reports = []
    for report in _reports(specs, False if light else real):
        reports.append(report)
        if not as_json:
            print_line(_line(report))
    if as_json:
        print_json([_as_json(report) for report in reports])
    else:
        print_line(_summary(reports))
    if any(report.wrong for report in reports):
        context.exit(PARTLY)


def _verify_folder(folder: str, as_json: bool) -> None:
    """Build the encoder of a folder; raise an error if it differs from the saved encoder."""
    from headstrip.factory.build import build_encoder

    with plugins_on_stderr():
        encoder = build_encoder(folder)
    identity = encoder.fingerprint.identity
    if as_json:
        print_json(
            {"folder": folder, "backbone": encoder.spec.qualified_name, "identity": identity}
        )
    else:
        print_line(f"{folder}  {encoder.spec.qualified_name}  has the saved fingerprint {identity}")


def _is_pattern(text: str) -> bool:
    return bool(_WILDCARDS & set(text))


def _chosen(registry: Registry, pattern: str) -> list[BackboneSpec]:
    """Return the named backbone, or all that match a pattern, the smallest first.

    Raises:
        UsageFailure: The pattern matches nothing.
        UnknownBackboneError: No backbone has the name, or the name has a tag.
    """
    if not _is_pattern(pattern):
        # This imports torch, which the checks of one backbone always need.
        from headstrip.testing.suite import spec_of

        return [spec_of(pattern)]
    specs = [
        spec
        for spec in registry.specs()
        if fnmatchcase(spec.name, pattern) or fnmatchcase(spec.qualified_name, pattern)
    ]
    if not specs:
        raise UsageFailure(f"No backbone matches {pattern!r}{_reason(registry, pattern)}")
    return sorted(specs, key=lambda spec: spec.params)


def _reason(registry: Registry, pattern: str) -> str:
    reason = nothing_listed(pattern.partition(":")[0], registry.records())
    return f": {reason}." if reason else ". Run `headstrip list` to see all names."


def _reports(specs: list[BackboneSpec], real: bool | None) -> Iterator[Report]:
    """Yield the report on each backbone. What plugins print goes to stderr."""
    from headstrip.testing.suite import REAL_PARAMS, level_of, report_on

    for spec in specs:
        with plugins_on_stderr():
            report = report_on(spec, level_of(spec, REAL_PARAMS if real is None else real))
        yield report


def _line(report: Report) -> str:
    shape = format_shape(report.input_shape) if report.input_shape else "-"
    about = f"{report.backbone}  {report.law or '-'}  {shape}  {report.level}"
    counted = [result for result in report.results if result.status != "skipped"]
    passed = len(counted) - len(report.wrong)
    if not report.wrong:
        unread = ", weights not read" if report.unread else ""
        return f"{about}  passed {passed}/{len(counted)}{unread}"
    failed = [result for result in report.wrong if result.status == "failed"]
    not_run = len(report.wrong) - len(failed)
    seen = "; ".join(f"{one.check}: {one.seen}" for one in failed or report.wrong)
    rest = f" ({not_run} not run)" if not_run else ""
    return f"{about}  failed {len(failed)}/{len(counted)}{rest}  {seen}"


def _summary(reports: list[Report]) -> str:
    from headstrip.testing.suite import REAL_PARAMS

    failed = sum(bool(report.wrong) for report in reports)
    levels = Counter(report.level for report in reports)
    how: dict[Level, str] = {
        "real": "run for real",
        "once": f"of more than {short_count(REAL_PARAMS)} parameters run once",
        "meta": "without memory",
    }
    counts = [f"{levels[level]} {words}" for level, words in how.items() if levels[level]]
    verdict = f"{failed} failed" if failed else "all passed"
    unread = sum(bool(report.unread) for report in reports)
    if unread:
        verdict += f", weights of {unread} not read"
    return f"{len(reports)} backbone{'s'[: len(reports) != 1]} ({', '.join(counts)}): {verdict}"


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "backbone": report.backbone,
        "level": report.level,
        "law": report.law,
        "input_shape": report.input_shape,
        "passed": not report.wrong,
        "weights_not_read": report.unread,
        "results": [asdict(result) for result in report.results],
    }
