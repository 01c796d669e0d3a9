"""What the commands of ``headstrip weights`` do with one file after the other, and say of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.output import plugins_on_stderr, print_json, print_line, printable, warn
from headstrip.cli.weights_names import (
    all_stored,
    is_path,
    is_pattern,
    refuse_what_is_no_name,
    stored_weights,
)
from headstrip.cli.weights_rows import count, readable_size
from headstrip.errors import HeadstripError, WeightsError
from headstrip.weights.caches import Caches, Stored
from headstrip.weights.checking import Verdict, check_path, check_stored
from headstrip.weights.status import status

_FILE_SIZE = "file size (MB)"
_DIGITS = 12
_IN_WORDS = {"ok": "ok", "wrong": "wrong", "recorded": "no expectation, recorded now"}

Subject = Stored | Path
"""A set of weights, or a file that no catalog names."""


class Report:
    """What a command says, a line or a JSON object for each piece of work.

    A piece that fails is said on stderr, and the others go on.
    """

    def __init__(self, as_json: bool) -> None:
        """Print lines at once, or JSON at the end."""
        self._as_json = as_json
        self._rows: list[dict[str, Any]] = []
        self._failed = False

    def add(self, line: str, *, wrong: bool = False, **row: Any) -> None:
        """Say one thing."""
        self._failed = self._failed or wrong
        self._rows.append(row)
        if not self._as_json:
            print_line(line)

    @contextmanager
    def piece(self, name: str) -> Iterator[None]:
        """Do one piece of work; what plugins print meanwhile is not the command's."""
        try:
            yield
        except HeadstripError as error:
            self._failed = True
            self._rows.append({"name": name, "problem": str(error)})
            warn(str(error))

    def end(self, context: click.Context) -> None:
        """End the command as its pieces ended."""
        if self._as_json:
            print_json(self._rows)
        if self._failed:
            context.exit(PARTLY)


def subjects(context: click.Context, names: Sequence[str]) -> list[Subject]:
    """Return what names, patterns and paths mean; a path that the catalogs know has its name."""
    for name in names:
        if not is_pattern(name):
            refuse_what_is_no_name(name, paths=True)
    paths = [Path(name).expanduser() for name in names if is_path(name)]
    named: dict[str, Stored] = {}
    if paths:
        registry, caches = open_registry(context), Caches()
        for stored in all_stored(registry, caches, here=True):
            if stored.is_here:
                named.setdefault(str(stored.path.resolve()), stored)
    others = [name for name in names if not is_path(name)]
    found: list[Subject] = [*stored_weights(context, others, here=True)]
    return found + [named.get(str(path.resolve()), path) for path in paths]


def name_of(subject: Subject) -> str:
    """Return what to call a subject."""
    return subject.name if isinstance(subject, Stored) else str(subject)


def check(subject: Subject) -> list[Verdict]:
    """Read every byte of a subject, and record what it is.

    Raises:
        WeightsError: It is not here.
    """
    if isinstance(subject, Path):
        if not subject.exists():
            raise WeightsError(f"There is no file {str(subject)!r}. Check the path.")
        return [check_path(subject)]
    require_here(subject)
    return check_stored(subject)


def require_here(stored: Stored) -> None:
    """Raise where a set of weights has no file on this machine."""
    if not stored.is_here:
        raise WeightsError(
            f"{stored.name} is not here: there is no {stored.path}. "
            f"`headstrip weights fetch {stored.name}` downloads it."
        )


def require_right(verdicts: Iterable[Verdict]) -> None:
    """Raise what is wrong with the first file that is."""
    for verdict in verdicts:
        if verdict.outcome == "wrong":
            raise WeightsError(verdict.problem)


def line_of(name: str, verdict: Verdict) -> str:
    """Say in a line what reading a file showed."""
    words = _IN_WORDS[verdict.outcome]
    if verdict.outcome == "wrong":
        return f"{name}  {words}  {verdict.problem}"
    said = f" (as {verdict.expected.said_by} says)" if verdict.expected.said_by else ""
    return f"{name}  {words}  {verdict.sha256[:_DIGITS]}{said}  {verdict.path}"


def row_of(name: str, verdict: Verdict) -> dict[str, Any]:
    """Return the same for a program."""
    return {
        "name": name, "path": str(verdict.path), "outcome": verdict.outcome,
        "sha256": verdict.sha256, "expected": verdict.expected.sha256,
        "said_by": verdict.expected.said_by, "problem": verdict.problem,
    }  # fmt: skip


def say(report: Report, stored: Stored, done: str) -> None:
    """Say what was done with a set of weights, and what it is now."""
    known = status(stored)
    said = f" (as {known.said_by} says)" if known.said_by else ""
    sha256 = f"{known.sha256[:_DIGITS]}{said}"
    report.add(
        f"{stored.name}  {done}  {readable_size(known.size)}  {sha256}  {stored.path}",
        name=stored.name, done=done, size=known.size, sha256=known.sha256,
        said_by=known.said_by, path=str(stored.path),
    )  # fmt: skip


def fetched(stored: Stored) -> Stored:
    """Download the file of a set of weights, and say where it is then.

    Raises:
        WeightsError: It cannot be downloaded.
    """
    from headstrip.weights.locating import locate

    with plugins_on_stderr():
        locate(stored.entry, stored.name)
    found = Caches().find(stored.name, stored.entry)
    assert found is not None
    return found


def download_question(missing: Sequence[Stored]) -> str:
    """Ask whether to download, with the sizes that the libraries state."""
    sizes = [dict(stored.entry.metrics).get(_FILE_SIZE) for stored in missing]
    known = [size for size in sizes if isinstance(size, (int, float))]
    unknown = len(missing) - len(known)
    parts = [readable_size(round(sum(known) * 1e6))] if known else []
    parts += [f"{unknown} of them of a size that is not stated"] if unknown else []
    return f"Download {count(len(missing), 'file')} ({', '.join(parts)})?"


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; without one ``--yes`` has to be given.

    Raises:
        UsageFailure: There is nobody to ask.
        click.Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageFailure(f"{question} There is no terminal to ask on: pass --yes.")
    click.confirm(printable(question), abort=True, err=True)


def size_of(paths: Iterable[Path]) -> int:
    """Return the bytes of files, each once whatever links to it."""
    return sum(path.stat().st_size for path in {path.resolve() for path in paths} if path.exists())


def way_to(stored: Stored) -> str:
    """Say how a file gets to where it would have to be."""
    if stored.origin == "package":
        package = stored.location.removeprefix("dist:").partition("/")[0]
        return f"`pip install {package}` brings it."
    if stored.origin == "own":
        return "Put it there."
    if stored.origin == "hub":
        repository = "/".join(stored.location.removeprefix("hf:").partition("@")[0].split("/")[:2])
        other = f"copy that folder from where `hf download {repository}` was run"
    else:
        other = f"put there what {stored.location} has"
    return f"`headstrip weights fetch {stored.name}` downloads it; without a network, {other}."
