"""``headstrip weights``: list, fetch, verify, repair and remove weights files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from headstrip.cli.backbone import allow_http_option, complete_backbone, open_registry
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.output import (
    Column,
    json_option,
    plugins_on_stderr,
    print_json,
    print_line,
    print_table,
    printable,
    warn,
)
from headstrip.cli.weights_arguments import (
    WeightsOrPath,
    is_pattern,
    named_weights,
    weights_or_paths,
)
from headstrip.cli.weights_report import (
    Report,
    all_rows,
    cells,
    count,
    download_question,
    how_to_get,
    readable_size,
    size_of,
)
from headstrip.errors import WeightsError
from headstrip.weights.caches import Caches, WeightsLocation
from headstrip.weights.checking import Verdict, check_path, check_weights, status
from headstrip.weights.removing import removable, remove

_COLUMNS = (
    Column("weights"),
    Column("size", is_number=True),
    Column("sha256"),
    Column("sha256 from"),
    Column("state"),
    Column("path"),
)

_names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME|PATTERN...", shell_complete=complete_backbone
)
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")


@click.group(name="weights")
def command() -> None:
    """List, fetch, verify, repair and remove weights files.

    Names are [source:]arch[.weights], such as resnet50.IMAGENET1K_V1. A name without a tag means
    the backbone's default weights.

    headstrip downloads into the caches of torch hub and of the Hugging Face hub. It keeps records
    of checked files, and the copies that `optimize` makes, in $HEADSTRIP_CACHE (default:
    ~/.cache/headstrip).
    """


@command.command(name="list")
@click.argument("pattern", required=False)
@json_option
@click.pass_context
def list_(context: click.Context, pattern: str | None, as_json: bool) -> None:
    """List the weights files on this machine.

    PATTERN is a shell pattern for their names, such as 'resnet*' or 'timm:*'. Each row shows the
    name, the size, the sha256 and its source, the state and the path. The command looks at names,
    sizes and times, and reads no file. It does not list your own files, only the copies that
    `optimize` made of them.
    """
    caches = Caches()
    rows = all_rows(open_registry(context), caches, pattern)
    if as_json:
        print_json(rows)
    elif rows:
        print_table(_COLUMNS, [cells(row) for row in rows])
        sizes = {os.path.realpath(row["path"]): row["size"] for row in rows}
        warn(f"{count(len(sizes), 'file')}, {readable_size(sum(sizes.values()))}")
    if not rows:
        matching = "" if pattern is None else f" that match {pattern!r}"
        warn(f"No weights{matching} are in {caches.downloads}, in {caches.hub} or in a package.")
        context.exit(PARTLY if pattern is not None else 0)


@command.command(name="path")
@click.argument("name", shell_complete=complete_backbone)
@json_option
@click.pass_context
def path_(context: click.Context, name: str, as_json: bool) -> None:
    """Print the path of the weights file of NAME.

    If the file is not on this machine, the command prints where it belongs and exits with code 1.
    """
    if is_pattern(name):
        raise UsageFailure(
            f"{name!r} is a pattern, and this command takes one name. Pass a name such as "
            "'resnet50.IMAGENET1K_V1'."
        )
    (weights,) = named_weights(context, [name], here=False)
    if as_json:
        print_json({"name": weights.name, "path": str(weights.path), "is_here": weights.is_here})
    else:
        print_line(weights.path)
    if not weights.is_here:
        warn(f"There is no such file yet. {how_to_get(weights)}")
        context.exit(PARTLY)


@command.command(name="fetch")
@_names
@_yes
@allow_http_option
@json_option
@click.pass_context
def fetch(context: click.Context, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Download weights, and verify them.

    NAME is a set of weights, such as resnet50.IMAGENET1K_V1. PATTERN, such as 'resnet*', means all
    weights that match: the command prints their size and asks before it downloads.
    """
    chosen = named_weights(context, names, here=False)
    missing = [weights for weights in chosen if not weights.is_here]
    if missing and any(map(is_pattern, names)):
        _confirm(download_question(missing), yes)
    elif missing:
        warn(download_question(missing).rstrip("?") + ".")
    report = Report(as_json)
    for weights in chosen:
        with report.task(weights.name):
            now = weights if weights.is_here else _download(weights)
            if status(now).state != "verified":
                _require_right(check_weights(now))
            report.add_done(now, "is here" if weights.is_here else "fetched")
    report.end(context)


@command.command(name="verify")
@click.argument(
    "names", nargs=-1, metavar="[NAME|PATTERN|PATH]...", shell_complete=complete_backbone
)
@click.option("--all", "everything", is_flag=True, help="Verify all weights files on this machine.")
@json_option
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Read every byte of weights files, and compare their sha256 with the expected one.

    The command prints one line per file: ok; wrong, with the expected and the actual sha256; or no
    expectation, if no sha256 is known. In the last case headstrip records the sha256, and expects
    it from then on if the file is in a cache. You may change your own files, named by their paths.
    The exit code is 1 if any file is wrong.
    """
    if everything == bool(names):
        raise UsageFailure(
            "`headstrip weights verify` needs either names or --all. Pass a name, a pattern or a "
            "file, or pass --all alone."
        )
    report = Report(as_json)
    for weights in weights_or_paths(context, names or ("*",)):
        name = _name_of(weights)
        with report.task(name):
            for verdict in _check(weights):
                report.add_verdict(name, verdict)
    report.end(context)


@command.command(name="repair")
@_names
@allow_http_option
@json_option
@click.pass_context
def repair(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Verify weights files, and download again those that are wrong.

    headstrip does not touch a file that is right. It keeps a wrong file until the new one is
    downloaded and verified. A pattern means the files on this machine.
    """
    from headstrip.weights.repairing import fetch_again

    report = Report(as_json)
    for weights in named_weights(context, names, here=True):
        with report.task(weights.name):
            if not weights.is_here:
                report.add_done(_download(weights), "fetched")
                continue
            wrong = [one for one in check_weights(weights) if one.outcome == "wrong"]
            for verdict in wrong:
                fetch_again(weights, verdict.path)
            if wrong:
                _require_right(check_weights(weights))
            report.add_done(weights, "fetched again" if wrong else "is right")
    report.end(context)


@command.command(name="remove")
@_names
@_yes
@json_option
@click.pass_context
def remove_(context: click.Context, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove weights files, with their partial downloads, optimized copies and records.

    A file in the Hugging Face hub's cache stays if another revision uses it.
    """
    report = Report(as_json)
    found: list[tuple[WeightsLocation, list[Path]]] = []
    for weights in named_weights(context, names, here=True, partly=True):
        with report.task(weights.name):
            paths = removable(weights)
            if not paths:
                raise WeightsError(
                    f"{weights.name} is not on this machine: there is no {weights.path}. Check the "
                    "name, or run `headstrip weights list`."
                )
            found.append((weights, paths))
    paths = [path for _, each in found for path in each]
    for path in paths:
        warn(f"{path}  {readable_size(size_of([path]))}")
    if found:
        _confirm(f"Remove {count(len(paths), 'file')}, {readable_size(size_of(paths))}?", yes)
    for weights, paths in found:
        with report.task(weights.name):
            size = size_of(paths)
            remove(weights)
            report.add(
                f"{weights.name}  removed  {readable_size(size)}",
                name=weights.name,
                size=size,
                paths=[str(path) for path in paths],
            )
    report.end(context)


@command.command(name="optimize")
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME|PATH...", shell_complete=complete_backbone
)
@json_option
@click.pass_context
def optimize(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Convert weights files into a format that loads faster and needs less memory.

    headstrip keeps the converted copy in its cache, and loads it instead of the file as long as
    the file does not change.
    """
    from headstrip.weights.optimized import optimize as convert

    report = Report(as_json)
    for weights in weights_or_paths(context, names):
        name = _name_of(weights)
        with report.task(name):
            _require_right(_check(weights))
            for file in weights.files() if isinstance(weights, WeightsLocation) else (weights,):
                copy = convert(file)
                before, after = size_of([file]), size_of([copy])
                report.add(
                    f"{name}  {readable_size(before)} -> {readable_size(after)}  {copy}",
                    name=name,
                    path=str(file),
                    size=before,
                    copy=str(copy),
                    copy_size=after,
                )
    report.end(context)


def _name_of(weights: WeightsOrPath) -> str:
    return weights.name if isinstance(weights, WeightsLocation) else str(weights)


def _check(weights: WeightsOrPath) -> list[Verdict]:
    """Read every byte of weights, and record their sha256.

    Raises:
        WeightsError: They are not on this machine.
    """
    if isinstance(weights, Path):
        if not weights.exists():
            raise WeightsError(f"There is no file {str(weights)!r}. Check the path.")
        return [check_path(weights)]
    if not weights.is_here:
        raise WeightsError(
            f"{weights.name} is not on this machine: there is no {weights.path}. "
            f"`headstrip weights fetch {weights.name}` downloads it."
        )
    return check_weights(weights)


def _require_right(verdicts: Iterable[Verdict]) -> None:
    """Raise an error for the first wrong file."""
    for verdict in verdicts:
        if verdict.outcome == "wrong":
            raise WeightsError(verdict.problem)


def _download(weights: WeightsLocation) -> WeightsLocation:
    """Download the file of a set of weights, and return the location of the new file.

    Raises:
        WeightsError: The download failed.
    """
    from headstrip.weights.locating import locate

    with plugins_on_stderr():
        locate(weights.entry, weights.name)
    found = Caches().find(weights.name, weights.entry)
    assert found is not None
    return found


def _confirm(question: str, yes: bool) -> None:
    """Ask on the terminal, unless ``--yes`` was given.

    Raises:
        UsageFailure: There is no terminal to ask on.
        click.Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageFailure(f"{question} There is no terminal to ask on: pass --yes.")
    click.confirm(printable(question), abort=True, err=True)
