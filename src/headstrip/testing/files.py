"""Files of weights: those on this machine are loaded, of the others the addresses are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from headstrip.errors import HeadstripError
from headstrip.factory.construction import Builder, Wish
from headstrip.factory.selection import Selection
from headstrip.network.head import Stripped
from headstrip.network.head_check import width_of_stripped
from headstrip.network.width import HeadError, ProbeError
from headstrip.spec import WeightsEntry
from headstrip.testing.claims import head_output
from headstrip.testing.report import Broken, Skipped
from headstrip.testing.subject import Subject
from headstrip.weights import hub
from headstrip.weights.addresses import file_name

_SHA256 = re.compile(r"[0-9a-fA-F]{8,64}|")


def loading(subject: Subject) -> str:
    """Weights on this machine load, and the addresses and hashes of all are valid."""
    if not subject.entries:
        raise Skipped("it has no weights")
    problems: list[str] = []
    loaded = 0
    for entry in subject.entries:
        found = [f"{entry.tag}: {problem}" for problem in _invalid(entry)]
        local = [one for one in entry.locations if not _is_remote(one)]
        if not found:
            for location in local:
                problem = _load(subject, replace(entry, locations=(location,)))
                found += [f"{entry.tag}: {problem}"] if problem else []
        problems += found
        loaded += bool(local)
        if not local:
            subject.unread.append(entry.tag)
    if problems:
        raise Broken("; ".join(problems[:3]) + (" ..." if problems[3:] else ""))
    count = f"weights not read: {len(subject.unread)} of {len(subject.entries)} sets"
    return f"{loaded} sets loaded" + (f", {count}" if subject.unread else "")


def _is_remote(location: str) -> bool:
    return location.startswith(("https:", "http:", "hf:"))


def _invalid(entry: WeightsEntry) -> Iterator[str]:
    """Say which addresses, and which hash, no file can have."""
    if not _SHA256.fullmatch(entry.sha256):
        yield (
            f"sha256 is {entry.sha256!r}, which is not a sha256. Write its 64 hexadecimal digits, "
            "or at least the first 8"
        )
    for location in entry.locations:
        try:
            if location.startswith("hf:"):
                hub.parse(location)
            elif _is_remote(location):
                file_name(location)
        except (HeadstripError, ValueError) as error:
            yield f"the location {location!r} is not valid: {error}"


def _load(subject: Subject, entry: WeightsEntry) -> str | None:
    """Load a set of weights as ``build_encoder`` does; say what is wrong with it, or None."""
    registry, spec = subject.registry, subject.spec
    builder = Builder(
        subject.owner, registry.stripper(spec.family), spec, Selection(entry), Wish(offline=True)
    )
    try:
        stripped, _, _ = builder.build(subject.plain_options(entry))
        return _misfit(subject, entry, stripped)
    except (HeadstripError, HeadError, ProbeError, Broken) as error:
        return f"its file cannot be used: {error}"


def _misfit(subject: Subject, entry: WeightsEntry, stripped: Stripped) -> str | None:
    shape = stripped.input_shape or entry.input_shape or subject.spec.input_shape
    width = width_of_stripped(stripped, shape, lambda: None)
    if width != subject.spec.dim:
        return f"its file makes a network {width} wide, and the catalog claims {subject.spec.dim}"
    if stripped.head is None:
        lost = entry.num_classes is not None and subject.light.stripped.head is not None
        return f"its file has no head, and {entry.num_classes} classes are stated" if lost else None
    classes = head_output(stripped, width)[-1]
    if entry.num_classes not in {None, classes}:
        return f"its file has {classes} classes, and {entry.num_classes} are stated"
    return None
