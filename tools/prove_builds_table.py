"""Write the table of `prove_builds.py` as a page, and read it back to continue."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

DOCUMENT = """\
# Builds, architecture by architecture

This page is for readers who want to check that headstrip builds the same network as the library.
`python tools/prove_builds.py --markdown docs/reference/builds.md` writes it. The tool builds each
network twice from one file: the ordinary way, in real memory with `load_state_dict` copying, and
with headstrip. It compares bit for bit: all parameters and buffers, persistent or not, every
tensor, array and number that a module keeps in an attribute, and for networks of at most 30
million parameters an embedding. `assigned`: no parameter had memory before headstrip assigned the
file's tensor. `ordinary`: all parameters were initialised and then overwritten, because the
constructor needs their values or keeps tensors computed from them.

Made on {date} with torch {torch}, torchvision {torchvision} and timm {timm}, within {seconds} s and
{gib} GiB per architecture.

| mechanism | equal | not equal | not run |
|---|---|---|---|
{counts}

| architecture | mechanism | tensors | embedding | equal |
|---|---|---|---|---|
{table}
"""


@dataclass(frozen=True)
class Proof:
    """The result for one architecture.

    Attributes:
        name: Qualified name.
        mechanism: How headstrip built it, ``-`` if it was not run.
        tensors: Number of tensors that were compared.
        embedding: ``compared``, or ``-`` for a large network.
        outcome: ``yes``, ``no``, or why it was not run.
        seen: What differs.
        seconds: Duration.
    """

    name: str
    mechanism: str
    tensors: int
    embedding: str
    outcome: str
    seen: str
    seconds: float


def not_run(name: str, reason: str) -> Proof:
    """Return the row of an architecture that was not run, with the reason."""
    return Proof(name, "-", 0, "-", f"not run: {reason}", "", 0)


def proven(path: Path) -> dict[str, Proof]:
    """Read the rows that passed from a table, by architecture. The file may be missing."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = re.findall(
        r"^\| `(\S+)` \| (\w+) \| (\d+) \| (compared|-) \| yes \|$", text, re.MULTILINE
    )
    return {
        name: Proof(name, mechanism, int(tensors), embedding, "yes", "", 0)
        for name, mechanism, tensors, embedding in rows
    }


def markdown(proofs: list[Proof], seconds: float, gib: float) -> str:
    """Return the document with the table."""
    versions = {
        name: metadata.version(name).partition("+")[0] for name in ("torch", "torchvision", "timm")
    }
    counts = Counter((proof.mechanism, proof.outcome.partition(":")[0]) for proof in proofs)
    rows = [
        f"| {mechanism} | {counts[mechanism, 'yes']} | {counts[mechanism, 'no']} | "
        f"{counts[mechanism, 'not run']} |"
        for mechanism in sorted({mechanism for mechanism, _ in counts})
    ]
    table = [
        f"| `{proof.name}` | {proof.mechanism} | {proof.tensors} | {proof.embedding} | "
        f"{proof.outcome}{f': {proof.seen}' if proof.seen else ''} |"
        for proof in sorted(proofs, key=lambda proof: proof.name)
    ]
    return DOCUMENT.format(
        date=datetime.date.today(),
        seconds=f"{seconds:g}",
        gib=f"{gib:g}",
        counts="\n".join(rows),
        table="\n".join(table),
        **versions,
    )
