"""``headstrip weights``: which weights files are here, and whether they are what they should be."""

from __future__ import annotations

import os
from pathlib import Path

import click

from headstrip.cli.backbone import allow_http_option, complete_backbone, open_registry
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.output import Column, json_option, print_json, print_line, print_table, warn
from headstrip.cli.weights_names import is_pattern, stored_weights
from headstrip.cli.weights_rows import all_rows, cells, count, readable_size
from headstrip.cli.weights_work import (
    Report,
    check,
    confirm,
    download_question,
    fetched,
    line_of,
    name_of,
    require_right,
    row_of,
    say,
    size_of,
    subjects,
    way_to,
)
from headstrip.errors import WeightsError
from headstrip.weights.caches import Caches, Stored
from headstrip.weights.checking import check_stored
from headstrip.weights.removing import removable, remove
from headstrip.weights.status import status

_COLUMNS = (
    Column("weights"), Column("size", is_number=True), Column("sha256"), Column("who says it"),
    Column("state"), Column("path"),
)  # fmt: skip

_names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME|PATTERN...", shell_complete=complete_backbone
)
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.group(name="weights")
def command() -> None:
    """List, fetch, verify, repair and remove weights files.

    Names are [source:]arch[.weights], such as resnet50.IMAGENET1K_V1; without a tag they mean the
    backbone's default weights. Downloads lie in the caches of torch hub and of the Hugging Face
    hub. What is known of their bytes, and copies that `optimize` makes, lie in $HEADSTRIP_CACHE,
    else in ~/.cache/headstrip.
    """


@command.command(name="list")
@click.argument("pattern", required=False)
@json_option
@click.pass_context
def list_(context: click.Context, pattern: str | None, as_json: bool) -> None:
    """List the weights files that are on this machine.

    PATTERN is a shell pattern over their names, such as 'resnet*' or 'timm:*'. A row has the
    name, size, the sha256 and who says it, whether the bytes were compared with it, and the
    path. Names, sizes and times are looked at, no file is read. Files of your own are not
    listed; copies that `optimize` made of them are.
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
        of_it = "" if pattern is None else f" that match {pattern!r}"
        warn(f"No weights{of_it} are in {caches.downloads}, in {caches.hub} or in a package.")
        context.exit(PARTLY if pattern is not None else 0)


@command.command(name="path")
@click.argument("name", shell_complete=complete_backbone)
@json_option
@click.pass_context
def path_(context: click.Context, name: str, as_json: bool) -> None:
    """Print where the file of NAME is, or where it would have to be put.

    The exit code is 1 when it is not there.
    """
    if is_pattern(name):
        raise UsageFailure(f"{name!r} is a pattern. Name one set of weights.")
    (stored,) = stored_weights(context, [name], here=False)
    if as_json:
        print_json({"name": stored.name, "path": str(stored.path), "is_here": stored.is_here})
    else:
        print_line(stored.path)
    if not stored.is_here:
        warn(f"It is not there. {way_to(stored)}")
        context.exit(PARTLY)


@command.command(name="fetch")
@_names
@_yes
@allow_http_option
@json_option
@click.pass_context
def fetch(context: click.Context, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Download weights without building anything, and verify them.

    A pattern such as 'resnet*' means all weights that match: it says how much that is, and asks.
    """
    chosen = stored_weights(context, names, here=False)
    missing = [stored for stored in chosen if not stored.is_here]
    if missing and any(map(is_pattern, names)):
        confirm(download_question(missing), yes)
    elif missing:
        warn(download_question(missing).rstrip("?") + ".")
    report = Report(as_json)
    for stored in chosen:
        with report.piece(stored.name):
            now = stored if stored.is_here else fetched(stored)
            if status(now).state != "verified":
                require_right(check_stored(now))
            say(report, now, "is here" if stored.is_here else "fetched")
    report.end(context)


@command.command(name="verify")
@click.argument(
    "names", nargs=-1, metavar="[NAME|PATTERN|PATH]...", shell_complete=complete_backbone
)
@click.option("--all", "everything", is_flag=True, help="All weights files on this machine.")
@json_option
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Read every byte of weights files, and compare it with what it must be.

    A line a file: ok; wrong, with what was expected and found; or no expectation, where nobody
    said which bytes it must have: those that it has are recorded. The exit code is 1 when any
    is wrong.
    """
    if everything == bool(names):
        raise UsageFailure("Name weights, a pattern over them or a file, or pass --all alone.")
    report = Report(as_json)
    for subject in subjects(context, names or ("*",)):
        name = name_of(subject)
        with report.piece(name):
            for verdict in check(subject):
                wrong = verdict.outcome == "wrong"
                report.add(line_of(name, verdict), wrong=wrong, **row_of(name, verdict))
    report.end(context)


@command.command(name="repair")
@_names
@allow_http_option
@json_option
@click.pass_context
def repair(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Read weights files, and fetch again those that are wrong.

    A file that is right is left alone. One that is wrong stays until the new one is there and
    right. A pattern means the files on this machine.
    """
    from headstrip.weights.repairing import fetch_again

    report = Report(as_json)
    for stored in stored_weights(context, names, here=True):
        with report.piece(stored.name):
            if not stored.is_here:
                say(report, fetched(stored), "fetched")
                continue
            wrong = [one for one in check_stored(stored) if one.outcome == "wrong"]
            for verdict in wrong:
                fetch_again(stored, verdict.path)
            if wrong:
                require_right(check_stored(stored))
            say(report, stored, "fetched again" if wrong else "is right")
    report.end(context)


@command.command(name="remove")
@_names
@_yes
@json_option
@click.pass_context
def remove_(context: click.Context, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove weights files, with partial downloads, copies and records of them.

    A file of the Hugging Face hub's cache that another revision uses stays for that one.
    """
    report = Report(as_json)
    found: list[tuple[Stored, list[Path]]] = []
    for stored in stored_weights(context, names, here=True, partly=True):
        with report.piece(stored.name):
            paths = removable(stored)
            if not paths:
                raise WeightsError(f"{stored.name} is not here: there is no {stored.path}.")
            found.append((stored, paths))
    paths = [path for _, each in found for path in each]
    for path in paths:
        warn(f"{path}  {readable_size(size_of([path]))}")
    if found:
        confirm(f"Remove {count(len(paths), 'file')}, {readable_size(size_of(paths))}?", yes)
    for stored, paths in found:
        with report.piece(stored.name):
            size = size_of(paths)
            remove(stored)
            report.add(
                f"{stored.name}  removed  {readable_size(size)}",
                name=stored.name, size=size, paths=[str(path) for path in paths],
            )  # fmt: skip
    report.end(context)


@command.command(name="optimize")
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME|PATH...", shell_complete=complete_backbone
)
@json_option
@click.pass_context
def optimize(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Convert weights files once into a form that needs no copy in memory.

    The converted copy lies in headstrip's cache, and is read instead of the file for as long as
    the file has the same bytes.
    """
    from headstrip.weights.optimized import optimize as convert

    report = Report(as_json)
    for subject in subjects(context, names):
        name = name_of(subject)
        with report.piece(name):
            require_right(check(subject))
            for file in subject.files() if isinstance(subject, Stored) else (subject,):
                copy = convert(file)
                before, after = size_of([file]), size_of([copy])
                report.add(
                    f"{name}  {readable_size(before)} -> {readable_size(after)}  {copy}",
                    name=name, path=str(file), size=before, copy=str(copy), copy_size=after,
                )  # fmt: skip
    report.end(context)
